// What must be put back when an attack has ended, kept where the parent sees it.
#ifndef UNDO_H
#define UNDO_H

#include "attack.h"

#define UNDO_MAX 1024

enum undo_kind { UNDO_STORE, UNDO_BYTES, UNDO_MSR, UNDO_GDT };

struct undo {
	enum undo_kind kind;
	u32 length;
	u64 at;
	u64 value;
};

struct undo_log {
	u32 count;
	struct undo entries[UNDO_MAX];
};

extern struct undo_log *undo;
void undo_all(void);
#endif
