/* For tests, which unwind: what GCC's unwinder asks of glibc and musl does not have. ARM's has tables of its own and
 * asks nothing. */
#define _GNU_SOURCE
#include <link.h>

#ifndef __arm__
/* As in glibc 2.35's dlfcn.h. */
struct dl_find_object {
    unsigned long long flags;
    void *map_start, *map_end;
    void *link_map, *eh_frame;
    unsigned long long reserved[7];
};

/* A static program is one object. */
static int found(struct dl_phdr_info *info, size_t size, void *result)
{
    struct dl_find_object *object = result;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_GNU_EH_FRAME) {
            object->eh_frame = (void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
            return 1;
        }
    return 0;
}

int _dl_find_object(void *pc, struct dl_find_object *object)
{
    (void)pc;
    object->flags = 0;
    object->map_start = 0;
    object->map_end = (void *)-1;
    object->link_map = 0;
    return dl_iterate_phdr(found, object) ? 0 : -1;
}
#endif
