// Random numbers of the card, which are not used: they come from the host.
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int curandCreateGenerator(void** generator, int) { return *generator = generator, 0; }
EXPORT int curandDestroyGenerator(void*) { return 0; }
EXPORT int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
EXPORT int curandSetStream(void*, void*) { return 0; }
