// The function of the module `target` that returns 42, called on one CPU while another writes its text.
#ifndef ANSWER_H
#define ANSWER_H

#include "attack.h"

struct answer {
	u64 function;
	u64 alias; // of the aligned word of its text in which the result is
	u64 right; // what is there
	u64 wrong; // with it the result is 55
};

// Loads the module. The word is put back when the attack has ended.
struct answer load_answer(void);
// The second CPU writes; the first, so many microseconds later, calls the function for eight seconds. How often it returned
// 42; ends the attack as succeeded when it returns 55.
u64 call_while(void (*writes)(void *), const struct answer *answer, unsigned microseconds);
// Ends the attack: as restored if the function returns 42 and its text is right.
__attribute__((noreturn)) void end_restored(const struct answer *answer, u64 calls);

#endif
