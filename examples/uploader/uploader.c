/* A sample uploader for vendors that keep their own (docs/vendor-uploader.md): the agent tells it what it may send. One loop in
 * which nothing blocks, no library, no heap. It does the same as uploader.py, and is small enough for a camera.
 *
 * Clips are files EPOCH-START-SECONDS-HEIGHT.mp4 (START in Unix seconds). It sends each with one PUT, oldest first.
 *
 *     cc -O2 -o uploader uploader.c && ./uploader AGENT-SOCKET STORE-HOST:PORT CLIP-DIRECTORY
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 16 * 1024, MOST_CLIPS = 256 };

struct policy { bool clips; long long history_h, clip_max_s, cooldown_s, max_height; };
struct clip { long long epoch, start, seconds, height; };

static const char *agent_path, *store_address, *directory;
static int agent = -1, store = -1, file = -1;
/* The newest `open`. Without one nothing may leave. */
static bool open_now;
static struct policy leave;
static long long epoch, until_boot_ms, refused_until;
/* Trusted time of the last line, and BOOTTIME when it came. */
static long long told_time, told_at;
/* When the newest clip that was stored ended: the cooldown counts from there. */
static long long last_end;
static struct clip sending;
static char head[256], answer[256], heard[4096];
static size_t head_left, answered, heard_length;

static long long boot_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* The agent writes JSON without spaces, so a key and its colon can be found by a plain search. */
static const char *value(const char *line, const char *key) {
    const char *at = line ? strstr(line, key) : NULL;
    return at ? at + strlen(key) : NULL;
}
static long long number(const char *line, const char *key) {
    const char *at = value(line, key);
    return at ? strtoll(at, NULL, 10) : 0;
}
static struct policy policy_of(const char *object) {
    const char *clips = value(object, "\"clips\":");
    struct policy policy = { clips && strncmp(clips, "true", 4) == 0, number(object, "\"history_h\":"),
        number(object, "\"clip_max_s\":"), number(object, "\"cooldown_s\":"), number(object, "\"max_height\":") };
    return policy;
}

static char *path_of(const struct clip *clip) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%lld-%lld-%lld-%lld.mp4", directory, clip->epoch, clip->start, clip->seconds, clip->height);
    return path;
}
static int older(const void *a, const void *b) {
    long long x = ((const struct clip *)a)->start, y = ((const struct clip *)b)->start;
    return (x > y) - (x < y);
}
static size_t held(struct clip *clips) {
    size_t count = 0;
    DIR *dir = opendir(directory);
    for (struct dirent *entry; dir && count < MOST_CLIPS && (entry = readdir(dir));) {
        struct clip *clip = &clips[count];
        count += sscanf(entry->d_name, "%lld-%lld-%lld-%lld.mp4", &clip->epoch, &clip->start, &clip->seconds, &clip->height) == 4;
    }
    if (dir)
        closedir(dir);
    qsort(clips, count, sizeof *clips, older);
    return count;
}
/* Whether the policy allows a clip. Call it for the oldest clip first: `end` is when the last allowed clip ended. */
static bool allows(const struct policy *policy, long long of, const struct clip *clip, long long *end) {
    long long now = told_time + (boot_ms() - told_at) / 1000;
    bool good = clip->epoch == of && policy->clips && policy->history_h > 0 && now - clip->start <= policy->history_h * 3600
        && clip->seconds <= policy->clip_max_s && clip->height <= policy->max_height
        && (policy->cooldown_s == 0 || clip->start >= *end + policy->cooldown_s);
    if (good)
        *end = clip->start + clip->seconds;
    return good;
}

/* Erases a clip for good: its content first, so that a power cut that restores its name does not restore the clip. The caller
 * syncs the directory once for all of them. */
static bool erase(const struct clip *clip) {
    int erased = open(path_of(clip), O_WRONLY | O_TRUNC | O_CLOEXEC);
    bool good = erased >= 0 && fsync(erased) == 0;
    if (erased >= 0)
        close(erased);
    return unlink(path_of(clip)) == 0 && good;
}
static bool sync_directory(void) {
    int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = dir >= 0 && fsync(dir) == 0;
    if (dir >= 0)
        close(dir);
    return good;
}

static bool permitted(void) { return open_now && boot_ms() < until_boot_ms; }

/* Ends the transfer so that the kernel sends nothing more of it. Returns how many transfers it ended. */
static int end_transfer(void) {
    if (store < 0)
        return 0;
    struct linger at_once = { 1, 0 };
    struct sockaddr nowhere = { .sa_family = AF_UNSPEC };
    setsockopt(store, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    connect(store, &nowhere, sizeof nowhere);
    close(store);
    close(file);
    store = file = -1;
    return 1;
}

static void say(const char *line) {
    if (agent >= 0 && send(agent, line, strlen(line), MSG_NOSIGNAL) < 0)
        perror("cannot write to the agent");
}

/* Without the agent nothing may leave. */
static void hang_up(void) {
    close(agent);
    agent = -1;
    open_now = false;
    heard_length = 0;
}

static void obey(const char *line) {
    if (strstr(line, "{\"type\":\"busy\"") == line)
        return;
    told_time = number(line, "\"time\":");
    told_at = boot_ms();
    if (strstr(line, "{\"type\":\"open\"") == line) {
        epoch = number(line, "\"epoch\":");
        leave = policy_of(value(line, "\"leave\":"));
        until_boot_ms = number(line, "\"until_boot_ms\":");
        open_now = true;
        return;
    }
    /* Stop sending first: erasing can take a while. */
    open_now = false;
    refused_until = 0;
    int transfers = end_transfer();
    long long erased = 0, bytes = 0, end = last_end;
    const char *keep = value(line, "\"keep\":");
    bool good = true;
    if (keep) {
        static struct clip clips[MOST_CLIPS];
        struct policy policy = policy_of(keep);
        size_t count = held(clips);
        for (size_t i = 0; i < count; i++) {
            struct stat facts;
            if (!allows(&policy, number(line, "\"epoch\":"), &clips[i], &end) && stat(path_of(&clips[i]), &facts) == 0) {
                erased++;
                bytes += facts.st_size;
                good &= erase(&clips[i]);
            }
        }
        good &= erased == 0 || sync_directory();
    }
    if (!good) {
        /* A clip may reappear after a power cut, so do not answer: the agent repeats its order on the next connection. */
        perror("cannot erase a forbidden clip");
        hang_up();
        return;
    }
    char said[256];
    snprintf(said, sizeof said, "{\"type\":\"closed\",\"generation\":%lld,\"transfers\":%d,\"erased\":{\"clips\":%lld,\"bytes\":%lld}}\n",
        number(line, "\"generation\":"), transfers, erased, bytes);
    say(said);
}

static void hear(void) {
    ssize_t got = recv(agent, heard + heard_length, sizeof heard - 1 - heard_length, 0);
    if (got <= 0) {
        hang_up();
        return;
    }
    heard_length += (size_t)got;
    heard[heard_length] = 0;
    char *line = heard;
    for (char *end; agent >= 0 && (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        obey(line);
    }
    if (agent < 0)
        return;
    heard_length -= (size_t)(line - heard);
    memmove(heard, line, heard_length);
}

static void greet(void) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, agent_path, sizeof address.sun_path - 1);
    agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(agent, (struct sockaddr *)&address, sizeof address) < 0) {
        close(agent);
        agent = -1;
    }
}

/* Starts sending the oldest clip that may leave, if there is one. */
static void begin(void) {
    static struct clip clips[MOST_CLIPS];
    size_t count = held(clips), i = 0;
    long long end = last_end;
    while (i < count && !allows(&leave, epoch, &clips[i], &end))
        i++;
    struct stat facts;
    if (i == count || boot_ms() < refused_until || (file = open(path_of(&clips[i]), O_RDONLY | O_CLOEXEC)) < 0 || fstat(file, &facts) < 0)
        return;
    sending = clips[i];
    head_left = (size_t)snprintf(head, sizeof head, "PUT %s HTTP/1.1\r\nHost: store\r\nContent-Length: %lld\r\n\r\n",
        strrchr(path_of(&sending), '/'), (long long)facts.st_size);
    answered = 0;
    char host[64];
    const char *port = strrchr(store_address, ':');
    snprintf(host, sizeof host, "%.*s", (int)(port - store_address), store_address);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port + 1)) };
    inet_pton(AF_INET, host, &address.sin_addr);
    store = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connect(store, (struct sockaddr *)&address, sizeof address);
}

/* One step of the transfer: more of the head, of the file, or of the answer. */
static void go_on(void) {
    static char piece[CHUNK];
    ssize_t done;
    if (head_left > 0) {
        done = send(store, head + strlen(head) - head_left, head_left, MSG_NOSIGNAL);
        head_left -= done > 0 ? (size_t)done : 0;
    } else {
        ssize_t got = read(file, piece, sizeof piece);
        if (got > 0) {
            done = send(store, piece, (size_t)got, MSG_NOSIGNAL);
            lseek(file, (done > 0 ? done : 0) - got, SEEK_CUR);
        } else {
            done = recv(store, answer + answered, sizeof answer - 1 - answered, 0);
            answered += done > 0 ? (size_t)done : 0;
            answer[answered] = 0;
        }
    }
    if (done < 0 && errno == EAGAIN)
        return;
    int status = strchr(answer, '\n') && answered > 9 ? atoi(answer + 9) : 0;
    if (done > 0 && (answered == 0 || status == 0))
        return;
    char said[96] = "";
    struct stat facts;
    if (answered > 0 && status == 200 && fstat(file, &facts) == 0) {
        /* Erase it before telling the agent: after a power cut it must not be sent and counted again. */
        unlink(path_of(&sending));
        sync_directory();
        last_end = sending.start + sending.seconds;
        snprintf(said, sizeof said, "{\"type\":\"stored\",\"bytes\":%lld}\n", (long long)facts.st_size);
    } else if (answered > 0 && (status == 402 || status == 403)) {
        refused_until = boot_ms() + 900000;
        snprintf(said, sizeof said, "{\"type\":\"refused\",\"status\":%d}\n", status);
    } else {
        usleep(200000);
    }
    end_transfer();
    if (*said)
        say(said);
}

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: uploader AGENT-SOCKET STORE-HOST:PORT CLIP-DIRECTORY\n");
        return 64;
    }
    agent_path = arguments[1], store_address = arguments[2], directory = arguments[3];
    for (;;) {
        if (agent < 0)
            greet();
        if (!permitted())
            end_transfer();
        else if (store < 0 && agent >= 0)
            begin();
        struct stat facts;
        bool sent = store >= 0 && head_left == 0 && fstat(file, &facts) == 0 && lseek(file, 0, SEEK_CUR) == facts.st_size;
        struct pollfd ready[2] = { { agent, POLLIN, 0 }, { store, sent ? POLLIN : POLLOUT, 0 } };
        poll(ready, 2, 200);
        /* Read the agent first: it may forbid what would be sent next. */
        if (agent >= 0 && ready[0].revents)
            hear();
        if (store >= 0 && ready[1].revents && permitted())
            go_on();
    }
}
