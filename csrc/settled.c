/* Calls whose answer follows from what they passed alone, with that answer: an equal one needs no more
 * looks at the policy. Each has one place, by its hash; who comes later to the same place takes it. */
#include "receiver.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST = 1024 };

struct settled {
	uint64_t hash;
	size_t length;
	struct sd_reply reply;
	char key[];
};

/* FNV-1a. Who finds two keys with one hash has its calls decided anew each time, and that is all. */
static uint64_t hash_of(const char *key, size_t length)
{
	uint64_t hash = 0xcbf29ce484222325u;
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)key[i]) * 0x100000001b3u;
	return hash;
}

static void drop_gift(struct sd_gift *gift)
{
	if (gift && gift->node)
		sd_node_drop(gift->node);
	free(gift);
}

static void drop(struct settled *one)
{
	if (one) {
		drop_gift(one->reply.gift);
		free(one->reply.errand);
	}
	free(one);
}

const struct sd_reply *sd_settled_find(const struct sd_settled *all, const char *key, size_t length)
{
	if (!all->count || length > LONGEST)
		return NULL;
	uint64_t hash = hash_of(key, length);
	const struct settled *one = all->at[hash % SD_SETTLED];
	if (!one || one->hash != hash || one->length != length || memcmp(one->key, key, length))
		return NULL;
	return &one->reply;
}

void sd_settled_add(struct sd_settled *all, const char *key, size_t length,
		    const struct sd_reply *reply)
{
	uint64_t hash = hash_of(key, length);
	struct settled **place = &all->at[hash % SD_SETTLED];
	struct settled *one = length > LONGEST ? NULL : malloc(sizeof *one + length);
	if (!one) {
		drop_gift(reply->gift);
		free(reply->errand);
		return;
	}
	one->hash = hash;
	one->length = length;
	one->reply = *reply;
	memcpy(one->key, key, length);
	all->count += *place ? 0 : 1;
	drop(*place);
	*place = one;
}

void sd_settled_clear(struct sd_settled *all)
{
	for (int i = 0; i < SD_SETTLED; i++)
		drop(all->at[i]);
	memset(all, 0, sizeof *all);
}
