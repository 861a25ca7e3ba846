/* Classifies a picture file, or without one a drawn picture:
 *
 *     classify BUNDLE [PICTURE [VIEWS]]
 *
 * Built with: cc classify.c $(pkg-config --cflags --libs gabion) -o classify
 */
#include <gabion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 48 };

/* A red disc on blue, with rows of 3 * SIDE bytes. */
static void draw(uint8_t *pixels) {
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            int dx = 2 * x - SIDE, dy = 2 * y - SIDE;
            int inside = dx * dx + dy * dy < SIDE * SIDE / 2;
            uint8_t *pixel = pixels + 3 * (y * SIDE + x);
            pixel[0] = inside ? 220 : 40;
            pixel[1] = 60;
            pixel[2] = inside ? 50 : 200;
        }
    }
}

static int failed(const char *what, gabion_status status) {
    fprintf(stderr, "%s: %s: %s\n", what, gabion_status_name(status), gabion_last_error());
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s BUNDLE [PICTURE [VIEWS]]\n", argv[0]);
        return 2;
    }
    gabion_status status = gabion_check_abi(GABION_ABI_VERSION);
    if (status != GABION_OK) return failed("the library", status);

    gabion_session *session;
    status = gabion_open(argv[1], NULL, &session);
    if (status != GABION_OK) return failed("open", status);

    size_t classes = gabion_class_count(session);
    float *probabilities = malloc(classes * sizeof *probabilities);
    gabion_result result;
    memset(&result, 0, sizeof result);
    result.size = sizeof result;
    result.probabilities = probabilities;
    result.capacity = probabilities ? classes : 0;

    gabion_classify_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.views = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 1;

    if (argc > 2) {
        status = gabion_classify_file(session, argv[2], &options, &result);
    } else {
        static uint8_t drawn[3 * SIDE * SIDE];
        draw(drawn);
        gabion_pixels pixels = {drawn, SIDE, SIDE, 0};
        status = gabion_classify_rgb(session, &pixels, &options, &result);
    }
    int code = 0;
    if (status != GABION_OK) {
        code = failed("classify", status);
    } else {
        printf("%s: %s, %u view(s), agreement %.2f, margin %.3f, %.1f ms\n", gabion_name(session),
               gabion_class_name(session, result.label), result.views, (double)result.agreement, (double)result.margin,
               result.milliseconds);
        for (size_t label = 0; probabilities && label < classes; label++) {
            printf("%-12s %.6f\n", gabion_class_name(session, label), (double)probabilities[label]);
        }
    }
    free(probabilities);
    gabion_close(session);
    return code;
}
