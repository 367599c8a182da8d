/* Changes pgraft's shared memory in place of the worker, for tests of the gate and the WAL intake. extension/src/shmem/words.rs has the layout. */

#include "postgres.h"

#include <time.h>

#include "fmgr.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(gate);
PG_FUNCTION_INFO_V1(intake);
PG_FUNCTION_INFO_V1(words);

static volatile uint64 *
page(const char *name)
{
	Size		bytes = strcmp(name, "pgraft_gate") == 0 ? 8 : strcmp(name, "pgraft_intake") == 0 ? 8 * 40 : 8 * 1024;
	bool		found;
	void	   *words = ShmemInitStruct(name, bytes, &found);

	if (!found)
		elog(ERROR, "there was no page %s", name);
	return words;
}

/* gate(milliseconds): opens the gate for this time; 0 closes it. */
Datum
gate(PG_FUNCTION_ARGS)
{
	struct timespec now;
	int64		open = PG_GETARG_INT64(0);

	clock_gettime(CLOCK_BOOTTIME, &now);
	page("pgraft_gate")[0] = open == 0 ? 0 : (uint64) now.tv_sec * 1000 + now.tv_nsec / 1000000 + open;
	PG_RETURN_VOID();
}

/* intake(host, port, timeline): opens the intake for this primary; '' closes it. */
Datum
intake(PG_FUNCTION_ARGS)
{
	char	   *host = text_to_cstring(PG_GETARG_TEXT_PP(0));
	volatile uint64 *words = page("pgraft_intake");

	if (words[0] % 2 == 1)
		words[0]++;
	if (*host)
	{
		words[4] = PG_GETARG_INT32(1);
		words[5] = strlen(host);
		words[6] = PG_GETARG_INT32(2);
		memcpy((char *) (words + 8), host, strlen(host));
		words[0]++;
	}
	PG_RETURN_VOID();
}

/* words(page, n): a word of a page. */
Datum
words(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) page(text_to_cstring(PG_GETARG_TEXT_PP(0)))[PG_GETARG_INT32(1)]);
}
