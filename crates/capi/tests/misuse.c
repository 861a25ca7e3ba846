/* Everything that a program can get wrong and still be told, and one session used by several threads at once:
 *
 *     misuse BUNDLE PICTURE
 *
 * Prints nothing and ends with 0, or names the first line that is not as it should be.
 */
#include <gabion.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition, gabion_last_error()); \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

/* The call fails with this status, and the last error says this. */
#define REFUSED(call, expected, words)                        \
    do {                                                      \
        CHECK((call) == (expected));                          \
        CHECK(strstr(gabion_last_error(), (words)) != NULL);  \
    } while (0)

enum { SIDE = 40, CLASSES = 10, THREADS = 4, ROUNDS = 3 };

/* The curve's base point: a key that signed nothing here. */
#define KEY "5866666666666666666666666666666666666666666666666666666666666666"

static uint8_t drawn[SIDE * (3 * SIDE + 5)];

static gabion_result fresh(float *probabilities, size_t capacity) {
    gabion_result result;
    memset(&result, 0, sizeof result);
    result.size = sizeof result;
    result.probabilities = probabilities;
    result.capacity = capacity;
    return result;
}

static gabion_classify_options with_views(uint32_t views) {
    gabion_classify_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.views = views;
    return options;
}

static void open_and_close(const char *bundle) {
    gabion_session *session = (gabion_session *)1;
    REFUSED(gabion_open(NULL, NULL, &session), GABION_ERROR_ARGUMENT, "`bundle` is NULL");
    CHECK(session == NULL);
    REFUSED(gabion_open(bundle, NULL, NULL), GABION_ERROR_ARGUMENT, "`session` is NULL");
    REFUSED(gabion_open("\xff", NULL, &session), GABION_ERROR_ARGUMENT, "`bundle` is not UTF-8");
    REFUSED(gabion_open("nowhere", NULL, &session), GABION_ERROR_BUNDLE, "manifest.json is missing");

    struct {
        gabion_options known;
        uint64_t newer;
    } options;
    memset(&options, 0, sizeof options);
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_ARGUMENT, "sizeof(gabion_options)");
    options.known.size = offsetof(gabion_options, public_key) - 1;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_ARGUMENT, "`options->size` is 23");
    options.known.size = (size_t)-1;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_ARGUMENT, "options->size");
    options.known.size = sizeof options;
    options.newer = 1;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_UNSUPPORTED, "newer than this library");
    options.newer = 0;
    options.known.threads = 5000;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_ARGUMENT, "5000 threads");
    options.known.threads = 1;
    options.known.local_generations = 2;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_ARGUMENT, "use 0 or 1");
    options.known.local_generations = 1;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_ARGUMENT, "without `public_key`");
    options.known.public_key = "no key";
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_ARGUMENT, "not a public key");
    options.known.public_key = KEY;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_BUNDLE, "manifest.sig is missing");
    options.known.public_key = NULL;
    options.known.local_generations = 0;
    options.known.memory = 1000;
    REFUSED(gabion_open(bundle, &options.known, &session), GABION_ERROR_MEMORY, "the budget is 1000");
    options.known.memory = 0;
    /* A later header's struct, with what is newer left at zero. */
    CHECK(gabion_open(bundle, &options.known, &session) == GABION_OK);
    gabion_close(session);
    gabion_close(NULL);
}

static void names(const gabion_session *session) {
    CHECK(gabion_abi_version() == GABION_ABI_VERSION);
    CHECK(strchr(gabion_version(), '.') != NULL);
    CHECK(gabion_check_abi(GABION_ABI_VERSION) == GABION_OK);
    REFUSED(gabion_check_abi(GABION_ABI_VERSION + 1), GABION_ERROR_UNSUPPORTED, "ABI");
    CHECK(strcmp(gabion_status_name(GABION_ERROR_BUSY), "GABION_ERROR_BUSY") == 0);
    CHECK(strcmp(gabion_status_name(-7), "unknown status") == 0);
    CHECK(gabion_class_count(session) == CLASSES);
    CHECK(strcmp(gabion_class_name(session, 0), "airplane") == 0);
    CHECK(gabion_class_name(session, CLASSES) == NULL);
    CHECK(strstr(gabion_last_error(), "class 10 of 10") != NULL);
    CHECK(gabion_class_count(NULL) == 0 && gabion_class_name(NULL, 0) == NULL && gabion_name(NULL) == NULL);
    CHECK(strstr(gabion_last_error(), "`session` is NULL") != NULL);
}

static void pixels_and_results(const gabion_session *session) {
    float probabilities[CLASSES];
    gabion_result result = fresh(probabilities, CLASSES);
    gabion_pixels pixels = {drawn, SIDE, SIDE, 0};
    REFUSED(gabion_classify_rgb(NULL, &pixels, NULL, &result), GABION_ERROR_ARGUMENT, "`session` is NULL");
    REFUSED(gabion_classify_rgb(session, NULL, NULL, &result), GABION_ERROR_ARGUMENT, "`pixels` is NULL");
    REFUSED(gabion_classify_rgb(session, &pixels, NULL, NULL), GABION_ERROR_ARGUMENT, "`result` is NULL");
    gabion_pixels bad = {NULL, SIDE, SIDE, 0};
    REFUSED(gabion_classify_rgb(session, &bad, NULL, &result), GABION_ERROR_ARGUMENT, "`data` is NULL");
    bad.data = drawn;
    bad.width = 0;
    REFUSED(gabion_classify_rgb(session, &bad, NULL, &result), GABION_ERROR_ARGUMENT, "0x40");
    bad.width = bad.height = UINT32_MAX;
    REFUSED(gabion_classify_rgb(session, &bad, NULL, &result), GABION_ERROR_ARGUMENT, "are the most");
    bad.width = bad.height = SIDE;
    bad.stride = 3 * SIDE - 1;
    REFUSED(gabion_classify_rgb(session, &bad, NULL, &result), GABION_ERROR_ARGUMENT, "a stride of 119");
    bad.stride = (size_t)-1 / 2;
    REFUSED(gabion_classify_rgb(session, &bad, NULL, &result), GABION_ERROR_ARGUMENT, "beyond memory");

    gabion_result wrong = fresh(probabilities, CLASSES - 1);
    REFUSED(gabion_classify_rgb(session, &pixels, NULL, &wrong), GABION_ERROR_BUFFER, "room for 9");
    CHECK(wrong.classes == CLASSES && wrong.views == 0);
    wrong = fresh(NULL, CLASSES);
    REFUSED(gabion_classify_rgb(session, &pixels, NULL, &wrong), GABION_ERROR_ARGUMENT, "is NULL with a capacity");
    wrong = fresh(probabilities, CLASSES);
    wrong.size = 7;
    REFUSED(gabion_classify_rgb(session, &pixels, NULL, &wrong), GABION_ERROR_ARGUMENT, "`result->size` is 7");
    gabion_classify_options options = with_views(4097);
    REFUSED(gabion_classify_rgb(session, &pixels, &options, &result), GABION_ERROR_ARGUMENT, "views is 4097");
    options = with_views(2);
    options.confidence = 0.4f;
    REFUSED(gabion_classify_rgb(session, &pixels, &options, &result), GABION_ERROR_ARGUMENT, "confidence is 0.4");
    options.size = 1;
    REFUSED(gabion_classify_rgb(session, &pixels, &options, &result), GABION_ERROR_ARGUMENT, "`options->size` is 1");
    CHECK(result.views == 0 && result.classes == 0);

    /* Rows apart are the same picture as rows side by side, the last one without what follows it. */
    static uint8_t packed[3 * SIDE * SIDE];
    for (int y = 0; y < SIDE; y++) memcpy(packed + 3 * SIDE * y, drawn + (3 * SIDE + 5) * y, 3 * SIDE);
    pixels.data = packed;
    CHECK(gabion_classify_rgb(session, &pixels, NULL, &result) == GABION_OK);
    CHECK(result.views == 1 && result.classes == CLASSES && result.label < CLASSES);
    CHECK(result.probability == probabilities[result.label]);
    size_t needed = (3 * SIDE + 5) * (SIDE - 1) + 3 * SIDE;
    uint8_t *apart = malloc(needed);
    CHECK(apart != NULL);
    memcpy(apart, drawn, needed);
    gabion_pixels strided = {apart, SIDE, SIDE, 3 * SIDE + 5};
    float again[CLASSES];
    gabion_result second = fresh(again, CLASSES);
    CHECK(gabion_classify_rgb(session, &strided, NULL, &second) == GABION_OK);
    CHECK(memcmp(probabilities, again, sizeof again) == 0);
    free(apart);
    /* Without probabilities, and into a larger struct than this version's. */
    struct {
        gabion_result known;
        unsigned char newer[8];
    } larger;
    memset(&larger, 0, sizeof larger);
    larger.known.size = sizeof larger;
    CHECK(gabion_classify_rgb(session, &pixels, NULL, &larger.known) == GABION_OK);
    CHECK(larger.known.label == result.label && larger.known.size == sizeof larger && larger.newer[0] == 0);
}

static void pictures(const gabion_session *session, const char *picture) {
    float of_file[CLASSES], of_bytes[CLASSES];
    gabion_result result = fresh(of_file, CLASSES);
    REFUSED(gabion_classify_file(session, NULL, NULL, &result), GABION_ERROR_ARGUMENT, "`path` is NULL");
    REFUSED(gabion_classify_file(session, "no.png", NULL, &result), GABION_ERROR_IO, "no.png");
    REFUSED(gabion_classify_encoded(session, NULL, 3, NULL, &result), GABION_ERROR_ARGUMENT, "`bytes` is NULL");
    REFUSED(gabion_classify_encoded(session, drawn, 0, NULL, &result), GABION_ERROR_ARGUMENT, "0 values");
    REFUSED(gabion_classify_encoded(session, drawn, (size_t)-1, NULL, &result), GABION_ERROR_ARGUMENT, "values");
    REFUSED(gabion_classify_encoded(session, drawn, 90, NULL, &result), GABION_ERROR_PICTURE, "in memory");

    CHECK(gabion_classify_file(session, picture, NULL, &result) == GABION_OK);
    FILE *file = fopen(picture, "rb");
    CHECK(file != NULL);
    static uint8_t bytes[1 << 20];
    size_t length = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    result = fresh(of_bytes, CLASSES);
    CHECK(gabion_classify_encoded(session, bytes, length, NULL, &result) == GABION_OK);
    CHECK(memcmp(of_file, of_bytes, sizeof of_file) == 0);
    REFUSED(gabion_classify_encoded(session, bytes, length / 2, NULL, &result), GABION_ERROR_PICTURE, "in memory");
}

static void adaptation(const gabion_session *session) {
    uint64_t generation = 9;
    CHECK(gabion_generation(session, &generation) == GABION_OK && generation == 0);
    REFUSED(gabion_generation(session, NULL), GABION_ERROR_ARGUMENT, "`generation` is NULL");
    gabion_verdict verdict;
    memset(&verdict, 0, sizeof verdict);
    gabion_sample sample = {{drawn, SIDE, SIDE, 0}, 0, 0};
    REFUSED(gabion_adapt(NULL, &sample, 1, NULL, &verdict), GABION_ERROR_ARGUMENT, "`session` is NULL");
    REFUSED(gabion_adapt(session, &sample, 1, NULL, NULL), GABION_ERROR_ARGUMENT, "`verdict` is NULL");
    REFUSED(gabion_adapt(session, &sample, 1, NULL, &verdict), GABION_ERROR_ARGUMENT, "sizeof(gabion_verdict)");
    verdict.size = sizeof verdict;
    REFUSED(gabion_adapt(session, NULL, 1, NULL, &verdict), GABION_ERROR_ARGUMENT, "`samples` is NULL");
    REFUSED(gabion_adapt(session, &sample, 0, NULL, &verdict), GABION_ERROR_ARGUMENT, "0 values");
    gabion_adapt_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.seconds = 1.0;
    options.steps = 1;
    REFUSED(gabion_adapt(session, &sample, 1, &options, &verdict), GABION_ERROR_ARGUMENT, "both seconds and steps");
    options.steps = 0;
    options.recipe = "\xc3(";
    REFUSED(gabion_adapt(session, &sample, 1, &options, &verdict), GABION_ERROR_ARGUMENT, "is not UTF-8");
    sample.label = CLASSES;
    options.recipe = NULL;
    REFUSED(gabion_adapt(session, &sample, 1, &options, &verdict), GABION_ERROR_ARGUMENT, "samples[0].label");
}

typedef struct work {
    const gabion_session *session;
    float expected[CLASSES];
    int place;
} work;

/* Classifies, and fails on purpose with a message of its own, while others do. */
static void *classify_and_fail(void *given) {
    const work *job = given;
    char name[32];
    snprintf(name, sizeof name, "missing-%d.png", job->place);
    gabion_classify_options options = with_views(8);
    gabion_pixels pixels = {drawn, SIDE, SIDE, 3 * SIDE + 5};
    for (int round = 0; round < ROUNDS; round++) {
        float probabilities[CLASSES];
        gabion_result result = fresh(probabilities, CLASSES);
        CHECK(gabion_classify_file(job->session, name, NULL, &result) == GABION_ERROR_IO);
        CHECK(gabion_classify_rgb(job->session, &pixels, &options, &result) == GABION_OK);
        CHECK(memcmp(probabilities, job->expected, sizeof probabilities) == 0);
        /* Still this thread's own. */
        CHECK(strstr(gabion_last_error(), name) != NULL);
    }
    return NULL;
}

static void threads(const gabion_session *session) {
    work jobs[THREADS];
    pthread_t running[THREADS];
    gabion_classify_options options = with_views(8);
    gabion_pixels pixels = {drawn, SIDE, SIDE, 3 * SIDE + 5};
    for (int place = 0; place < THREADS; place++) {
        jobs[place].session = session;
        jobs[place].place = place;
        gabion_result result = fresh(jobs[place].expected, CLASSES);
        if (place == 0) {
            CHECK(gabion_classify_rgb(session, &pixels, &options, &result) == GABION_OK);
        } else {
            memcpy(jobs[place].expected, jobs[0].expected, sizeof jobs[0].expected);
        }
    }
    for (int place = 0; place < THREADS; place++) {
        CHECK(pthread_create(&running[place], NULL, classify_and_fail, &jobs[place]) == 0);
    }
    for (int place = 0; place < THREADS; place++) CHECK(pthread_join(running[place], NULL) == 0);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    for (size_t at = 0; at < sizeof drawn; at++) drawn[at] = (uint8_t)(at * 2654435761u >> 7);
    CHECK(strcmp(gabion_last_error(), "") == 0);
    open_and_close(argv[1]);
    gabion_session *session;
    gabion_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.threads = 2;
    CHECK(gabion_open(argv[1], &options, &session) == GABION_OK);
    names(session);
    pixels_and_results(session);
    pictures(session, argv[2]);
    adaptation(session);
    threads(session);
    gabion_close(session);
    return 0;
}
