/* What a maker may ever be asked to mount, and with which flags and options: what the policy's rules
 * with `via: kernel` grant. A rule has to grant all of it, and comes with its force. */
#include "mounts.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int device_granted(const struct sd_mount_rule *rule, const struct sd_new_mount *new,
			  const char *name)
{
	char path[SD_NODE_MAX];
	for (uint32_t i = 0; i < rule->device_count; i++) {
		const struct sd_devices *d = &rule->devices[i];
		if (new->major >= d->major_low && new->major <= d->major_high &&
		    new->minor >= d->minor_low && new->minor <= d->minor_high)
			return 1;
	}
	snprintf(path, sizeof path, "/dev/%s", name);
	for (uint32_t i = 0; *name && i < rule->name_count; i++)
		if (!fnmatch(rule->names[i], path, FNM_PATHNAME))
			return 1;
	return 0;
}

static int source_granted(const struct sd_mount_rule *rule, const struct sd_new_mount *new,
			  const char *name)
{
	if (new->kind == SD_NEW_DEVICE)
		return device_granted(rule, new, name);
	if (new->kind == SD_NEW_IMAGE)
		return rule->images != 0;
	for (uint32_t i = 0; new->kind == SD_NEW_TEXT && rule->text && i < rule->name_count; i++)
		if (!fnmatch(rule->names[i], new->source, FNM_NOESCAPE))
			return 1;
	return 0;
}

/* The length of a word's name, where a glob has to begin with that name; else 0. */
static size_t must_be_named(const struct sd_ceiling *ceiling, const char *word)
{
	size_t length = strcspn(word, "=");
	for (uint32_t i = 0; i < ceiling->named_count; i++)
		if (strlen(ceiling->named_options[i]) == length &&
		    !strncmp(ceiling->named_options[i], word, length))
			return length;
	return 0;
}

static int word_granted(const struct sd_ceiling *ceiling, const struct sd_mount_rule *rule,
			const char *word)
{
	size_t name = must_be_named(ceiling, word);
	for (uint32_t i = 0; i < rule->option_count; i++) {
		const char *glob = rule->options[i];
		if (name && (strncmp(glob, word, name) || glob[name] != '='))
			continue;
		if (!fnmatch(glob, word, FNM_NOESCAPE))
			return 1;
	}
	return 0;
}

/* The session translates the ids of hugetlbfs, and says root's where there are none. */
static int is_own_id(const struct sd_ceiling *ceiling, const char *fstype, const char *word)
{
	char *end;
	if (strcmp(fstype, "hugetlbfs") || (strncmp(word, "uid=", 4) && strncmp(word, "gid=", 4)))
		return 0;
	unsigned long id = strtoul(word + 4, &end, 10);
	if (end == word + 4 || *end || id > UINT32_MAX)
		return 0;
	return *word == 'u' ? sd_is_mapped(ceiling->uids, ceiling->uid_count, (uint32_t)id)
			    : sd_is_mapped(ceiling->gids, ceiling->gid_count, (uint32_t)id);
}

/* `kept`: one that need not be granted, or NULL. */
static int words_granted(const struct sd_ceiling *ceiling, const struct sd_mount_rule *rule,
			 const struct sd_new_mount *new, const char *kept)
{
	char data[sizeof new->data];
	char *rest = data, *word;
	memcpy(data, new->data, strlen(new->data) + 1); /* which was given an end */
	while ((word = strsep(&rest, ",")))
		if (*word && !(kept && !strcmp(word, kept)) &&
		    !is_own_id(ceiling, new->fstype, word) && !word_granted(ceiling, rule, word))
			return 0;
	return 1;
}

int sd_mount_granted(const struct sd_ceiling *ceiling, const struct sd_new_mount *new,
		     const char *name, const char *more)
{
	for (uint32_t i = 0; i < ceiling->mount_count; i++) {
		const struct sd_mount_rule *rule = &ceiling->mounts[i];
		if (!strcmp(rule->fstype, new->fstype) && !(rule->force & ~new->force) &&
		    !(new->flags & ~rule->flags) &&
		    (new->shift == SD_SHIFT_FALSE || rule->shift) &&
		    source_granted(rule, new, name) && words_granted(ceiling, rule, new, NULL) &&
		    (!more || word_granted(ceiling, rule, more)))
			return 1;
	}
	return 0;
}

int sd_change_granted(const struct sd_ceiling *ceiling, const struct sd_new_mount *new)
{
	for (uint32_t i = 0; i < ceiling->mount_count; i++) {
		const struct sd_mount_rule *rule = &ceiling->mounts[i];
		if (new->flags & ~rule->flags || !words_granted(ceiling, rule, new, SD_TAME_ERRORS))
			return 0;
	}
	return ceiling->mount_count > 0;
}
