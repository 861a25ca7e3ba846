/* Adapts a bundle to a few drawn images for some seconds, says what came of it, and takes it back:
 *
 *     adapt BUNDLE [SECONDS]
 *
 * Ends with 3 where the library was built without adaptation.
 */
#include <gabion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 32, IMAGES = 40 };

/* Stripes for class 0, discs for class 1. */
static void draw(uint8_t *pixels, int image) {
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            int dx = x - SIDE / 2, dy = y - SIDE / 2 + image % 5;
            int bright = image % 2 == 0 ? (y + image) / 4 % 2 : dx * dx + dy * dy < 80;
            memset(pixels + 3 * (y * SIDE + x), bright ? 230 : 30 + image, 3);
        }
    }
}

static int observe(const gabion_progress *progress, void *user) {
    int *events = user;
    ++*events;
    if (progress->phase == GABION_PHASE_STEP) {
        printf("step %llu: loss %.3f, %.0f %% of the budget\n", (unsigned long long)progress->done,
               (double)progress->loss, 100.0 * progress->share);
    }
    return 0; /* anything else cancels */
}

static int failed(const char *what, gabion_status status) {
    fprintf(stderr, "%s: %s: %s\n", what, gabion_status_name(status), gabion_last_error());
    return status == GABION_ERROR_UNSUPPORTED ? 3 : 1;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s BUNDLE [SECONDS]\n", argv[0]);
        return 2;
    }
    gabion_status status = gabion_check_abi(GABION_ABI_VERSION);
    if (status != GABION_OK) return failed("the library", status);
    gabion_session *session;
    status = gabion_open(argv[1], NULL, &session);
    if (status != GABION_OK) return failed("open", status);

    static uint8_t pixels[IMAGES][3 * SIDE * SIDE];
    gabion_sample samples[IMAGES];
    memset(samples, 0, sizeof samples);
    for (int image = 0; image < IMAGES; image++) {
        draw(pixels[image], image);
        samples[image].pixels.data = pixels[image];
        samples[image].pixels.width = samples[image].pixels.height = SIDE;
        samples[image].label = image % 2;
    }
    int events = 0;
    gabion_adapt_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.seconds = argc > 2 ? strtod(argv[2], NULL) : 5.0;
    options.observer = observe;
    options.user = &events;
    gabion_verdict verdict;
    memset(&verdict, 0, sizeof verdict);
    verdict.size = sizeof verdict;

    int code = 0;
    status = gabion_adapt(session, samples, IMAGES, &options, &verdict);
    if (status != GABION_OK) {
        code = failed("adapt", status);
    } else if (verdict.promoted) {
        printf("promoted as generation %llu after %d events: clean %.1f to %.1f, robust %.1f to %.1f\n",
               (unsigned long long)verdict.generation, events, verdict.clean_before, verdict.clean_after,
               verdict.robust_before, verdict.robust_after);
        uint64_t generation;
        status = gabion_rollback(session, &generation);
        if (status != GABION_OK) {
            code = failed("rollback", status);
        } else {
            printf("taken back: generation %llu classifies\n", (unsigned long long)generation);
        }
    } else {
        printf("refused: %s\n", verdict.reason);
    }
    gabion_close(session);
    return code;
}
