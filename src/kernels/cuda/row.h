// A row of a decoding step.
#pragma once

// Its slot, and how many entries of it the row sees (its own is the last of them).
struct Row {
    unsigned slot;
    unsigned length;
};
