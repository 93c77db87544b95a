/* Collects IPFIX from one TCP connection with libfixbuf and prints what came: for tests and for measuring vxtap's export.
 *
 *   cc -O2 -o ipfix-collector scripts/ipfix-collector.c $(pkg-config --cflags --libs libfixbuf)
 *   ipfix-collector PORT
 *
 * One line of JSON: flow and options records, packets and bytes of both directions, and seconds from the first record on.
 */
#include <fixbuf/public.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TEMPLATE 999

#pragma pack(push, 1)
typedef struct {
    uint64_t flow_id, packets_o, packets_r, octets_o, octets_r;
} record_t;
#pragma pack(pop)

static fbInfoElementSpec_t elements[] = {
    {"flowId", 8, 0},
    {"packetDeltaCount", 8, 0},
    {"reversePacketDeltaCount", 8, 0},
    {"octetDeltaCount", 8, 0},
    {"reverseOctetDeltaCount", 8, 0},
    FB_IESPEC_NULL,
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int fail(GError *error)
{
    fprintf(stderr, "ipfix-collector: %s\n", error->message);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: ipfix-collector PORT\n");
        return 2;
    }
    GError *error = NULL;
    fbInfoModel_t *model = fbInfoModelAlloc();
    fbTemplate_t *template = fbTemplateAlloc(model);
    fbSession_t *session = fbSessionAlloc(model);
    if (!fbTemplateAppendSpecArray(template, elements, ~0u, &error) ||
        !fbSessionAddTemplate(session, TRUE, TEMPLATE, template, &error))
        return fail(error);
    fbConnSpec_t at;
    memset(&at, 0, sizeof at);
    at.transport = FB_TCP;
    at.host = "127.0.0.1";
    at.svc = argv[1];
    fbListener_t *listener = fbListenerAlloc(&at, session, NULL, NULL, &error);
    if (!listener)
        return fail(error);
    fBuf_t *buffer = fbListenerWait(listener, &error);
    if (!buffer || !fBufSetInternalTemplate(buffer, TEMPLATE, &error))
        return fail(error);
    fBufSetAutomaticMode(buffer, TRUE);
    uint64_t flows = 0, options = 0;
    record_t sum = {0};
    double begun = 0;
    for (;;) {
        record_t record;
        size_t len = sizeof record;
        if (!fBufNext(buffer, (uint8_t *)&record, &len, &error))
            break;
        if (begun == 0)
            begun = now();
        /* Options have no flow. */
        if (record.flow_id == 0) {
            options++;
            continue;
        }
        flows++;
        sum.packets_o += record.packets_o;
        sum.packets_r += record.packets_r;
        sum.octets_o += record.octets_o;
        sum.octets_r += record.octets_r;
    }
    /* The end of the connection is one; a sequence number that is not the one expected is told on standard error. */
    if (!g_error_matches(error, FB_ERROR_DOMAIN, FB_ERROR_EOF))
        return fail(error);
    printf("{\"flows\":%" PRIu64 ",\"options\":%" PRIu64 ",\"pkts_o\":%" PRIu64 ",\"pkts_r\":%" PRIu64
           ",\"ip_bytes_o\":%" PRIu64 ",\"ip_bytes_r\":%" PRIu64 ",\"seconds\":%.3f}\n",
           flows, options, sum.packets_o, sum.packets_r, sum.octets_o, sum.octets_r, now() - begun);
    return 0;
}
