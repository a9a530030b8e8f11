/* The arguments of a call: cut to their types, its strings read, all of it made into a key. */
#include "memory.h"
#include "receiver.h"

#include <errno.h>
#include <string.h>

static void append(struct sd_call *call, const void *data, size_t size)
{
	memcpy(call->key + call->key_length, data, size);
	call->key_length += (int32_t)size;
}

_Static_assert(sizeof(((struct sd_call *)0)->key) >=
	       SD_STRINGS * (SD_PATH_MAX + sizeof(int32_t)) + 6 * sizeof(uint64_t) + 8,
	       "the key holds the longest call");

static int is_string(int kind)
{
	return kind >= SD_STRING && kind != SD_BUFFER;
}

int sd_has_strings(const struct sd_reads *reads)
{
	for (int i = 0; reads && i < 6; i++)
		if (reads->kind[i] >= SD_STRING)
			return 1;
	return 0;
}

/* Cut to their types; those that are no strings go into the key. */
static void take_numbers(struct sd_call *call, const struct sd_reads *reads, const uint64_t *args)
{
	for (int i = 0; i < 6; i++) {
		uint64_t value = args[i];
		int kind = reads ? reads->kind[i] : SD_UNUSED;
		if (kind == SD_U32 || call->arch != SD_ARCH_X86_64)
			value &= UINT32_MAX;
		if (kind == SD_U16)
			value &= UINT16_MAX;
		call->args[i] = value;
		if (kind != SD_UNUSED && !is_string(kind))
			append(call, &value, sizeof value);
	}
}

static int read_one(struct sd_call *call, int at, int kind, char *text)
{
	if (kind == SD_HOW)
		return sd_read_how((pid_t)call->tid, call->args[at], at < 5 ? call->args[at + 1] : 0, text);
	if (kind == SD_LOOP)
		return sd_read_loop((pid_t)call->tid, at ? (uint32_t)call->args[at - 1] : 0, call->args[at],
				    text);
	if (kind == SD_XATTR)
		return at < 5 ? sd_read_xattr(call, at, text) : -EFAULT;
	if (kind >= SD_ADDRESS && kind != SD_NAME)
		return sd_read_of_socket(call, at, kind, text);
	return sd_read_string((pid_t)call->tid, call->args[at], text, kind);
}

void sd_take_arguments(struct sd_call *call, const struct sd_reads *reads, const uint64_t *args,
		       int unread)
{
	int strings = 0;
	call->key_length = 0;
	append(call, &call->arch, sizeof call->arch);
	append(call, &call->nr, sizeof call->nr);
	take_numbers(call, reads, args);
	call->head_length = call->key_length;
	for (int i = 0; reads && i < 6 && strings < SD_STRINGS; i++) {
		if (!is_string(reads->kind[i]))
			continue;
		int length = unread ? -EFAULT : read_one(call, i, reads->kind[i], call->text[strings]);
		call->length[strings] = length;
		append(call, &length, sizeof length);
		if (length > 0)
			append(call, call->text[strings], (size_t)length);
		strings++;
	}
	for (int i = 0; reads && !unread && i < 6; i++)
		if (reads->kind[i] == SD_BUFFER)
			sd_read_payload(call, i);
}
