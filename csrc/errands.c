/* Connects that are settled: an equal one needs no more looks at the policy. The session reads it and has
 * a porter make it, which answers it as well; nobody else is woken for that. */
#include "desks.h"
#include "porters.h"

#include <sched.h>
#include <stdlib.h>

static struct sd_runner runner = {.sock = -1};
static struct sd_porter_desk *desk; /* of that one */
static uint32_t kept_tid;           /* whose table it can take descriptors from; 0: nobody's */
static int kept_listener;

void sd_errands_by(int sock, uint32_t number)
{
	desk = sd_porter_desk(number);
	sd_runner_by(&runner, sock, desk ? &desk->desk : NULL);
}

int sd_errands_porter(void)
{
	return runner.sock;
}

static int ask(const struct sd_socket *call)
{
	int same = runner.at_desk && kept_tid == call->tid && kept_listener == call->listener;
	runner.at_desk = 0;
	kept_tid = call->by_thread ? call->tid : 0;
	kept_listener = call->listener;
	if (same) {
		sd_socket_ask_at(call, desk);
		return 0;
	}
	sd_desk_set(&desk->desk, SD_DESK_PORTERS);
	return sd_socket_ask(call, runner.sock, call->by_thread ? SD_KEEP : SD_KEEP_NOT);
}

enum sd_errand_end sd_errand_run(struct sd_socket *call, int others_wait, int *there)
{
	const struct sd_asked asked = {call->id, call->listener, call->on_error};
	if (!sd_runner_is_there(&runner))
		return SD_ERRAND_NOT;
	sd_desk_bind(&desk->desk, (uint32_t)sched_getcpu());
	return sd_runner_wait(&runner, ask(call), &asked, others_wait, there);
}

void sd_settle_errand(struct sd_receiver *receiver, const struct sd_call *call,
		      const struct sd_socket *errand)
{
	struct sd_socket *kept = malloc(sizeof *kept);
	if (!kept)
		return;
	*kept = *errand;
	const struct sd_reply reply = {.errand = kept};
	sd_settled_add(&receiver->settled, call->key, (size_t)call->key_length, &reply);
}
