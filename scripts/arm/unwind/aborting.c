/* For programs that abort on a panic: the symbols of an unwinder that ARM's tables and the standard library name.
 * Only _Unwind_Backtrace is ever called, by anyhow where RUST_BACKTRACE is set, and finds nothing. GCC's own unwinder
 * would add 300 KB. */

/* 5: the end of the stack. */
int _Unwind_Backtrace(void *trace, void *argument) { (void)trace; (void)argument; return 5; }
unsigned long _Unwind_GetIP(void *context) { (void)context; return 0; }
unsigned long _Unwind_GetCFA(void *context) { (void)context; return 0; }
void *_Unwind_FindEnclosingFunction(void *address) { (void)address; return 0; }
void _Unwind_Resume(void *exception) { (void)exception; __builtin_trap(); }

#ifdef __arm__
void __aeabi_unwind_cpp_pr0(void) {}
void __aeabi_unwind_cpp_pr1(void) {}
void __aeabi_unwind_cpp_pr2(void) {}
int _Unwind_VRS_Get(void *context, int class, unsigned number, int form, void *value)
{
    (void)context; (void)class; (void)number; (void)form;
    *(unsigned *)value = 0;
    return 0;
}
#endif
