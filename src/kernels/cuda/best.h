// A candidate for the next token.
#pragma once

#include "numbers.h"

struct Candidate {
    float score;
    unsigned id;
};

// Stands for none.
constexpr unsigned NO_ID = 0xffffffffu;
