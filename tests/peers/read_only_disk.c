/* Simulates a disk that is read-only as long as the file that READ_ONLY_WHILE names exists. Writes
 * to files of a store that are already open fail with EROFS. This library has to be loaded before
 * the C library (LD_PRELOAD). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int refused(int fd)
{
	const char *flag = getenv("READ_ONLY_WHILE");
	char link[32], path[PATH_MAX];
	ssize_t length;
	int error = errno;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length < 0)
		length = 0;
	path[length] = 0;
	errno = error;
	if (!strstr(path, "/limiter.db") || !flag || access(flag, F_OK) != 0) {
		errno = error;
		return 0;
	}
	errno = EROFS;
	return 1;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
	static ssize_t (*next)(int, const void *, size_t);

	if (!next)
		next = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
	return refused(fd) ? -1 : next(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
	static ssize_t (*next)(int, const void *, size_t, off64_t);

	if (!next)
		next = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
	return refused(fd) ? -1 : next(fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
	return pwrite64(fd, bytes, count, offset);
}

int ftruncate64(int fd, off64_t length)
{
	static int (*next)(int, off64_t);

	if (!next)
		next = (int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64");
	return refused(fd) ? -1 : next(fd, length);
}

int ftruncate(int fd, off_t length)
{
	return ftruncate64(fd, length);
}
