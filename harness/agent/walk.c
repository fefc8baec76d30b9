// SPDX-License-Identifier: Apache-2.0
/*
 * The loop of the agent's walk operation in C.  harness/agent/walk.py holds the same loop in Python, describes
 * the records, and is what runs where this cannot; both give the same records, byte for byte.
 *
 * Compiled by the controller into a shared object that needs no C library (harness/hosts/native.py), loaded by
 * harness/agent/native_walk.py.  Numbers of the interface come from there, in `struct walk`.
 */
#include <stdint.h>

#define EINTR 4
#define F_GETFD 1
#define FD_CLOEXEC 1
#define CLOCK_MONOTONIC 1
#define RESET_TARGET 255
#define NO_FD_YET -2
#define NO_READ 0xfe
#define GAVE_DATA 0xfd
#define NO_GET 0xff

enum { FLAG_FD = 1, FLAG_CLOEXEC = 2, FLAG_HELD = 4, FLAG_ODD = 8, FLAG_MISMATCH = 16, FLAG_LOADED = 32 };

/* What a call does, in the numbers of the kernel: the seam at which a test stands in for the device. */
#if defined(__x86_64__) && defined(__LP64__)
enum { READ = 0, WRITE = 1, CLOSE = 3, IOCTL = 16, FCNTL = 72, CLOCK_GETTIME = 228 };
static inline long system_call(long number, long a, long b, long c)
{
	long result;

	asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__) && defined(__LP64__)
enum { READ = 63, WRITE = 64, CLOSE = 57, IOCTL = 29, FCNTL = 25, CLOCK_GETTIME = 113 };
static inline long system_call(long number, long a, long b, long c)
{
	register long x8 asm("x8") = number, x0 asm("x0") = a, x1 asm("x1") = b, x2 asm("x2") = c;

	asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}
#else
#error "no system calls are known here for this machine: the agent walks in Python"
#endif

struct time {
	int64_t s, ns;
};

struct state {
	uint32_t argsz, flags, state;
	int32_t data_fd;
};

/* Shared with native_walk.py, which declares the same fields in the same order. */
struct walk {
	long (*call)(long number, long a, long b, long c);	/* 0: the kernel's */
	int (*clock)(int id, struct time *now);		/* the C library's, or 0 */
	const uint8_t *targets, *sessions, *stream;
	uint8_t *recs;
	uint64_t count, done, stream_bytes, loaded_bytes;
	int64_t until_ns, slice_ns;
	struct state set, get;
	uint32_t feature, reset, pending;
	int32_t fd, held, held_session, loading, elsewhere, error;
};

/* What a slice ends with: nothing is left; time is over, or more to do; the agent has to load the stream. */
enum { OVER, MORE, LOAD, FAILED };

static inline long call(struct walk *w, long number, long a, long b, long c)
{
	if (__builtin_expect(w->call != 0, 0))
		return w->call(number, a, b, c);
	return system_call(number, a, b, c);
}

/* As Python does for all but ioctl and close: a signal is no answer. */
static inline long call_again(struct walk *w, long number, long a, long b, long c)
{
	long result;

	do
		result = call(w, number, a, b, c);
	while (result == -EINTR);
	return result;
}

static inline int64_t now_ns(struct walk *w)
{
	struct time now = { 0, 0 };

	if (w->clock)
		w->clock(CLOCK_MONOTONIC, &now);
	else
		call(w, CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&now, 0);
	return now.s * 1000000000 + now.ns;
}

static inline long control(struct walk *w, uint32_t request, struct state *argument)
{
	return call(w, IOCTL, w->fd, request, (long)argument);
}

static inline void finish(struct walk *w, uint32_t record)
{
	uint8_t *rec = w->recs + 4 * w->done++;

	rec[0] = record;
	rec[1] = record >> 8;
	rec[2] = record >> 16;
	rec[3] = record >> 24;
}

/* One target.  The record is finished, or it waits in `pending` until the stream is loaded. */
static int step(struct walk *w)
{
	uint8_t target = w->targets[w->done];
	uint32_t flags = w->held >= 0 ? FLAG_HELD : 0, error = 0, outcome = NO_READ, seen;
	int32_t written = -1, number = -1, fresh = -1, session;
	long result, mode;

	if (target == RESET_TARGET) {
		result = control(w, w->reset, 0);
		if (result < 0)
			error = -result & 0xff;
	} else {
		struct state answer = w->set;

		answer.state = target;
		result = control(w, w->feature, &answer);
		number = answer.data_fd;
		if (result >= 0) {
			written = answer.state;
		} else {
			error = -result & 0xff;
			if (number == NO_FD_YET)	/* refused before the kernel wrote anything */
				number = -1;
		}
	}
	if (control(w, w->feature, &w->get) < 0)
		seen = NO_GET;
	else	/* no such state: it must not pass for a failed GET */
		seen = w->get.state > 0xfe ? 0xfe : w->get.state;
	if (written != (int32_t)seen && written != -1)
		flags |= FLAG_MISMATCH;
	if (number != -1) {
		mode = -1;
		if (number >= 0 && number != w->held && number != w->fd)
			mode = call_again(w, FCNTL, number, F_GETFD, 0);
		if (mode < 0) {
			flags |= FLAG_ODD;
		} else {
			fresh = number;
			flags |= mode & FD_CLOEXEC ? FLAG_FD | FLAG_CLOEXEC : FLAG_FD;
		}
	}
	session = w->sessions[seen];
	if (w->held >= 0 && (fresh >= 0 || (session != w->held_session && seen != NO_GET))) {
		uint8_t byte;

		result = call_again(w, READ, w->held, (long)&byte, 1);
		outcome = result > 0 ? GAVE_DATA : -result & 0xff;
		result = call(w, CLOSE, w->held, 0, 0);
		if (result < 0) {
			w->error = -result;
			return FAILED;
		}
		w->held = -1;
	}
	w->pending = error | seen << 8 | flags << 16 | outcome << 24;
	if (fresh >= 0) {
		w->held = fresh;
		w->held_session = session;
		if (w->stream_bytes && session == 2) {
			w->loading = 1;
			w->loaded_bytes = 0;
			return w->elsewhere ? LOAD : MORE;
		}
	}
	finish(w, w->pending);
	return MORE;
}

/* One write of the stream to the session that RESUMING has just started. */
static void load(struct walk *w)
{
	long result = call_again(w, WRITE, w->held, (long)(w->stream + w->loaded_bytes),
				 w->stream_bytes - w->loaded_bytes);

	if (result >= 0) {
		w->loaded_bytes += result;
		if (w->loaded_bytes < w->stream_bytes)
			return;
	}
	w->loading = 0;
	finish(w, w->pending | (result >= 0 ? FLAG_LOADED << 16 : 0));
}

/* Walk on for `slice_ns`, at least one step or write, so that the agent sees that the walk advances. */
__attribute__((visibility("default"))) int vfiocert_walk(struct walk *w)
{
	int64_t now = now_ns(w), end = now + w->slice_ns;

	for (;;) {
		if (w->loading) {
			if (w->elsewhere) {	/* the agent has done it, and said in loaded_bytes how it went */
				w->loading = 0;
				finish(w, w->pending | (w->loaded_bytes ? FLAG_LOADED << 16 : 0));
			} else {
				load(w);
			}
		} else {
			int result;

			if (w->done == w->count || (now > w->until_ns && w->done))
				return OVER;
			result = step(w);
			if (result != MORE)
				return result;
		}
		now = now_ns(w);
		if (now >= end)
			return MORE;
	}
}

/* Both sides must mean the same by `struct walk`. */
__attribute__((visibility("default"))) const uint32_t vfiocert_walk_bytes = sizeof(struct walk);
