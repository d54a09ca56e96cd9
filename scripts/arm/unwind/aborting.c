/* For programs that abort on a panic: the symbols of an unwinder that ARM's tables and the standard library name.
 * Nothing calls them, and GCC's own would add 300 KB. */

/* 5: the end of the stack. */
int _Unwind_Backtrace(void *trace, void *argument) { (void)trace; (void)argument; return 5; }
unsigned long _Unwind_GetIP(void *context) { (void)context; return 0; }
void _Unwind_Resume(void *exception) { (void)exception; __builtin_trap(); }
void __aeabi_unwind_cpp_pr0(void) {}
void __aeabi_unwind_cpp_pr1(void) {}
void __aeabi_unwind_cpp_pr2(void) {}
int _Unwind_VRS_Get(void *context, int class, unsigned number, int form, void *value)
{
    (void)context; (void)class; (void)number; (void)form;
    *(unsigned *)value = 0;
    return 0;
}
