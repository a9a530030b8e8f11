/* What an image of ext2, ext3 or ext4 wants of the host by itself: that it panics upon an error, and
 * that another device is its journal. An image that its owner writes to meanwhile can say something
 * else when the kernel reads it: then it is no panic still, but a journal it may be. */
#include "mounts.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { AT = 1024, SIZE = 1024, BLOCK = 4096 };
/* as struct ext4_super_block has it */
enum { MAGIC = 56, ERRORS = 60, COMPAT = 92, JOURNAL_DEVICE = 228 };
enum { EXT_MAGIC = 0xef53, ERRORS_REMOUNT_RO = 2, HAS_JOURNAL = 4 };

int sd_is_ext(const struct sd_new_mount *new)
{
	return !strcmp(new->fstype, "ext2") || !strcmp(new->fstype, "ext3") ||
	       !strcmp(new->fstype, "ext4");
}

static uint32_t number(const uint8_t *superblock, size_t at)
{
	uint32_t value;
	memcpy(&value, superblock + at, sizeof value);
	return le32toh(value);
}

static int has_option(const struct sd_new_mount *new, const char *name)
{
	size_t length = strlen(name);
	const char *found = new->data;
	while ((found = strstr(found, name))) {
		if (found == new->data || found[-1] == ',')
			return 1;
		found += length;
	}
	return 0;
}

/* The options without empty ones, which the kernel skips: room for one more. */
static size_t squeeze(char *data)
{
	char *to = data;
	for (const char *from = data; *from; from++)
		if (*from != ',' || (to > data && to[-1] != ','))
			*to++ = *from;
	if (to > data && to[-1] == ',')
		to--;
	*to = 0;
	return (size_t)(to - data);
}

/* Its own word on errors is in the image, and one of its words is panic: then whoever made the image
 * could halt the host. An option wins over the image, so there always is one; for an honest image it
 * says the same as the image does. */
static int never_panic(struct sd_new_mount *new, const uint8_t *superblock)
{
	if (has_option(new, "errors="))
		return 0;
	int read_only = (superblock[ERRORS] | superblock[ERRORS + 1] << 8) == ERRORS_REMOUNT_RO;
	size_t length = squeeze(new->data);
	int more = snprintf(new->data + length, sizeof new->data - length, "%s%s",
			    length ? "," : "", read_only ? "errors=remount-ro" : SD_TAME_ERRORS);
	if (more >= (int)(sizeof new->data - length))
		return -EINVAL; /* never cut */
	new->data_length = (int32_t)length + more;
	return 0;
}

/* A journal elsewhere is as an option that names it: in the image, or by the caller. */
static int journal_granted(const struct sd_mounting *mounting, const struct sd_new_mount *new,
			   const char *name, const uint8_t *superblock)
{
	char words[2][32];
	uint32_t device = number(superblock, JOURNAL_DEVICE);
	int magic = superblock[MAGIC] | superblock[MAGIC + 1] << 8;
	if (magic != EXT_MAGIC || !(number(superblock, COMPAT) & HAS_JOURNAL) || !device ||
	    has_option(new, "journal_dev=") || has_option(new, "journal_path="))
		return 1;
	snprintf(words[0], sizeof words[0], "journal_dev=%#x", device);
	snprintf(words[1], sizeof words[1], "journal_dev=%u", device);
	return sd_mount_granted(mounting->ceiling, new, name, words[0]) ||
	       sd_mount_granted(mounting->ceiling, new, name, words[1]);
}

/* Past the cache where that can be done: what the device has there of ours, the mount of it would
 * throw away at some cost, on all processors. Behind the end all is zero. 0 or -errno */
static int read_superblock(struct sd_mounting *mounting, const char *device, int image,
			   const uint8_t **found)
{
	static uint8_t begin[AT + BLOCK] __attribute__((aligned(BLOCK)));
	memset(begin, 0, sizeof begin);
	*found = begin + AT;
	if (image < 0) {
		/* kept until it is mounted: the last one to close a device waits for what it holds */
		image = mounting->loop = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (image >= 0 && pread(image, begin, BLOCK, 0) == BLOCK)
			return 0;
		if (image >= 0)
			close(image);
		image = mounting->loop = open(device, O_RDONLY | O_CLOEXEC);
	}
	return image < 0 || pread(image, begin, AT + SIZE, 0) < 0 ? -errno : 0;
}

int sd_tame_ext(struct sd_mounting *mounting, struct sd_new_mount *new, const char *name,
		const char *device, int image, struct sd_mounted *mounted)
{
	const uint8_t *superblock;
	int error = read_superblock(mounting, device, image, &superblock);
	if (error)
		return error;
	if (!journal_granted(mounting, new, name, superblock)) {
		mounted->flags |= SD_MOUNTED_JOURNAL;
		return -EPERM;
	}
	return never_panic(new, superblock);
}
