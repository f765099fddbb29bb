/* Draws, flushes and reads one pixel, over and over: what frees Mesa's fences. Picture and other
 * work are small, so that much of the drawing thread's time is in its fences. sim/README.md has the
 * results.
 *
 *     cc -O1 -o fence fence.c -lEGL -lOpenGL
 *     cc -O2 -shared -fPIC -o interrupt.so interrupt.c
 *     export LP_NUM_THREADS=1 LD_PRELOAD=$PWD/interrupt.so
 *     INTERRUPT_EVERY_US=1300 INTERRUPT_US=1000 ./fence 150000
 *     HOLD_UP_US=1000 ./fence 10000
 *     HOLD_UP_US=20000 valgrind ./fence 100
 *     ANY_THREAD=1 LP_NUM_THREADS=0 HOLD_UP_US=1000 ./fence 10000
 */
#include <EGL/egl.h>
#include <EGL/eglext.h>
#define GL_GLEXT_PROTOTYPES
#include <GL/gl.h>
#include <GL/glext.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    const long pictures = argc > 1 ? atol(argv[1]) : 1000;
    const int side = 16, longest_work_bits = 10;
    EGLDisplay display = eglGetPlatformDisplay(EGL_PLATFORM_SURFACELESS_MESA, NULL, NULL);
    if (!eglInitialize(display, NULL, NULL)) return fputs("no EGL\n", stderr), 1;
    eglBindAPI(EGL_OPENGL_API);
    const EGLint wanted[] = {EGL_RENDERABLE_TYPE, EGL_OPENGL_BIT, EGL_NONE};
    EGLConfig config;
    EGLint found;
    eglChooseConfig(display, wanted, &config, 1, &found);
    EGLContext context = eglCreateContext(display, config, EGL_NO_CONTEXT, NULL);
    if (!context || !eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, context))
        return fputs("no context\n", stderr), 1;
    printf("%s, %s\n", glGetString(GL_RENDERER), glGetString(GL_VERSION));

    GLuint texture, frame;
    glGenTextures(1, &texture);
    glBindTexture(GL_TEXTURE_2D, texture);
    glTexImage2D(GL_TEXTURE_2D, 0, GL_RGBA8, side, side, 0, GL_RGBA, GL_UNSIGNED_BYTE, NULL);
    glGenFramebuffers(1, &frame);
    glBindFramebuffer(GL_FRAMEBUFFER, frame);
    glFramebufferTexture2D(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_TEXTURE_2D, texture, 0);
    glBindTexture(GL_TEXTURE_2D, 0);
    glViewport(0, 0, side, side);

    unsigned random = 1;
    for (long i = 0; i < pictures; i++) {
        unsigned char pixel[4];
        glClear(GL_COLOR_BUFFER_BIT);
        glBegin(GL_TRIANGLES);
        glVertex2f(-1, -1);
        glVertex2f(1, -1);
        glVertex2f(0, 1);
        glEnd();
        glFlush();
        random = random * 1664525 + 1013904223;
        for (volatile unsigned k = 0; k < random >> (32 - longest_work_bits); k++) {
        }
        glReadPixels(0, 0, 1, 1, GL_RGBA, GL_UNSIGNED_BYTE, pixel);
    }
    puts("done");
    return 0;
}
