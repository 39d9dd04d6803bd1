/* A C program that knows no JSON and no HTTP: one line of curl per change of state. */
#include <stdio.h>
#include <stdlib.h>

static void report(const char *state)
{
    const char *url = getenv("FABMON_URL");
    char line[512];
    snprintf(line, sizeof line, "curl -fsS -m 2 -o /dev/null '%s/v1/ping/plc-gateway/STATION-3/%s?rid=%s'",
             url ? url : "http://localhost:8000", state, "2026-11-23T08");
    if (system(line) != 0)
        fputs("not reported\n", stderr); /* and go on */
}

int main(void)
{
    report("started");
    report("succeeded");
    return 0;
}
