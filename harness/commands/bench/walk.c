// SPDX-License-Identifier: GPL-2.0
/*
 * The yardstick of `vfiocert bench`: the arcs of the agent's walk operation (harness/agent/walk.py), with the
 * same system calls, and nothing else.
 *
 *   walk sweep CDEV REPEAT < TARGETS    walks TARGETS (one byte an arc, 255 a reset) REPEAT times;
 *                                       prints arcs, nanoseconds, and a checksum of what was seen
 *   walk set CDEV STATE                 opens the device, one SET to STATE, ends
 *   walk get CDEV                       opens the device, one GET, ends
 *
 * Structures are declared here, since the headers of the controller may be older than the interface.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define VFIO(nr) (0x3b00 | (100 + (nr)))
#define FEATURE VFIO(17)
#define RESET VFIO(11)
#define BIND VFIO(18)
#define ATTACH VFIO(19)
#define IOAS_ALLOC (0x3b00 | 0x81)
#define GET_STATE (1u << 16 | 2)
#define SET_STATE (1u << 17 | 2)
#define MAX_TARGETS (1 << 24)
#define RESET_TARGET 255
#define MAX_STREAM (1 << 26)
#define NO_FD_YET -2

struct state {
	uint32_t argsz, flags, state;
	int32_t data_fd;
};

static void die(const char *what)
{
	fprintf(stderr, "walk: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_device(const char *path)
{
	struct { uint32_t argsz, flags; int32_t iommufd; uint32_t devid; } bind = { 16, 0, -1, 0 };
	struct { uint32_t size, flags, ioas; } alloc = { 12, 0, 0 };
	struct { uint32_t argsz, flags, pt; } attach = { 12, 0, 0 };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die(path);
	bind.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (bind.iommufd < 0)
		die("/dev/iommu");
	if (ioctl(bind.iommufd, IOAS_ALLOC, &alloc))
		die("IOMMU_IOAS_ALLOC");
	if (ioctl(fd, BIND, &bind))
		die("VFIO_DEVICE_BIND_IOMMUFD");
	attach.pt = alloc.ioas;
	if (ioctl(fd, ATTACH, &attach))
		die("VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	return fd;
}

/* Which data transfer session a state belongs to: 0 none, 1 saving, 2 resuming. */
static int session_of(uint32_t state)
{
	switch (state) {
	case 3: case 6: case 7: return 1;
	case 4: return 2;
	default: return 0;
	}
}

static int held = -1, held_session;
static char stream[MAX_STREAM];
static size_t stream_bytes;

/* What the device saves now: the walk gives it back each time it comes to RESUMING. */
static void save_stream(int fd)
{
	struct state save = { sizeof(save), SET_STATE, 3, NO_FD_YET };
	struct state run = { sizeof(run), SET_STATE, 2, NO_FD_YET };
	ssize_t got;

	if (ioctl(fd, FEATURE, &save) || save.data_fd < 0)
		die("SET STOP_COPY");
	while ((got = read(save.data_fd, stream + stream_bytes, sizeof(stream) - stream_bytes)) > 0)
		stream_bytes += got;
	if (got < 0)
		die("read of the stream");
	close(save.data_fd);
	if (ioctl(fd, FEATURE, &run))
		die("SET RUNNING");
}

static void load_stream(int fd)
{
	size_t done = 0;
	ssize_t put;

	while (done < stream_bytes && (put = write(fd, stream + done, stream_bytes - done)) > 0)
		done += put;
}

static uint32_t step(int fd, unsigned char target)
{
	struct state set = { sizeof(set), SET_STATE, target, NO_FD_YET };
	struct state get = { sizeof(get), GET_STATE, 0, NO_FD_YET };
	int error = 0, number = -1, fresh = -1, seen, mode, session;
	char byte;

	if (target == RESET_TARGET) {
		if (ioctl(fd, RESET))
			error = errno;
	} else {
		if (ioctl(fd, FEATURE, &set))
			error = errno;
		number = error && set.data_fd == NO_FD_YET ? -1 : set.data_fd;
	}
	seen = ioctl(fd, FEATURE, &get) ? 0xff : (int)get.state;
	if (number >= 0 && number != held && number != fd) {
		mode = fcntl(number, F_GETFD);
		if (mode >= 0)
			fresh = number;
	}
	session = session_of(seen);
	if (held >= 0 && (fresh >= 0 || (session != held_session && seen != 0xff))) {
		if (read(held, &byte, 1) < 0)
			error += errno;
		close(held);
		held = -1;
	}
	if (fresh >= 0) {
		held = fresh;
		held_session = session;
		if (session == 2)
			load_stream(fresh);
	}
	return (uint32_t)error << 8 | (uint32_t)seen;
}

static int sweep(const char *path, long repeat)
{
	static unsigned char targets[MAX_TARGETS];
	struct timespec begun, ended;
	size_t count = fread(targets, 1, sizeof(targets), stdin);
	uint32_t checksum = 0;
	int fd = open_device(path);

	save_stream(fd);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (long round = 0; round < repeat; round++)
		for (size_t n = 0; n < count; n++)
			checksum = checksum * 31 + step(fd, targets[n]);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%lld %lld %u\n", (long long)count * repeat,
	       (ended.tv_sec - begun.tv_sec) * 1000000000LL + ended.tv_nsec - begun.tv_nsec, checksum);
	return 0;
}

static int one(const char *path, uint32_t flags, uint32_t state)
{
	struct state request = { sizeof(request), flags, state, NO_FD_YET };
	int error = ioctl(open_device(path), FEATURE, &request) ? errno : 0;

	printf("%d %u\n", error, request.state);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "sweep"))
		return sweep(argv[2], strtol(argv[3], NULL, 10));
	if (argc == 4 && !strcmp(argv[1], "set"))
		return one(argv[2], SET_STATE, strtoul(argv[3], NULL, 10));
	if (argc == 3 && !strcmp(argv[1], "get"))
		return one(argv[2], GET_STATE, 0);
	fprintf(stderr, "usage: walk sweep CDEV REPEAT < TARGETS | walk set CDEV STATE | walk get CDEV\n");
	return 2;
}
