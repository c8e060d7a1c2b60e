/* Simulates a slow disk, on which fsync(2) and fdatasync(2) take SLOW_DISK_MS milliseconds longer.
 * This library has to be loaded before the C library (LD_PRELOAD). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static int slowly(const char *name, int fd)
{
	int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
	const char *text = getenv("SLOW_DISK_MS");
	long ms = text ? atol(text) : 0;
	struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
	return sync(fd);
}

int fsync(int fd)
{
	return slowly("fsync", fd);
}

int fdatasync(int fd)
{
	return slowly("fdatasync", fd);
}
