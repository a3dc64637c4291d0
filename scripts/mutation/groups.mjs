// What is mutated, and which tests have to tell. Each policy and the state machines behind it stand against the tests
// that are about it, not against all tests that happen to pass through: so a mutant costs little, and a score says that
// the tests of the thing itself know what it does.
const core = "packages/core/src"
const files = (folder, names) => names.map((name) => `${core}/${folder}/${name}.ts`)
const resilience = (...names) => files("resilience", names)
const internal = (...names) => files("internal/resilience", names)
const tests = (...patterns) => patterns.map((pattern) => `packages/core/test/${pattern}.test.ts`)

/**
 * By name: paths of sources, and patterns of paths of tests, from the root. `without`: tests that simulate hours or
 * thousands of callers; seconds each, and other tests are about the same code.
 */
export const groups = {
  numbers: {
    mutate: internal("ratio", "elapsed", "latencyQuantile", "hedgeDelay"),
    tests: tests("resilience/{RateLimit,RetryBudget,HedgeDelay,Throttle,Numbers}*"),
    without: /^the rate |retry storm|about twice that/
  },
  bulkhead: {
    mutate: [...resilience("Bulkhead"), ...internal("bulkhead", "timer")],
    tests: tests("resilience/{Bulkhead,AdaptiveLimit}*"),
    without: /^adaptive limit |finds the capacity of a service/
  },
  adaptiveLimit: {
    mutate: internal("adaptiveLimit"),
    tests: tests("resilience/AdaptiveLimit*"),
    without: /finds the capacity of a service/
  },
  rateLimit: {
    mutate: [...resilience("RateLimit"), ...internal("rateLimit")],
    tests: tests("resilience/RateLimit*"),
    without:
      /^the rate (gcra: \d{3,} |sliding window: (3, |within )|.*(Effect's RateLimiter|10,000,000|timers are late))/
  },
  throttle: {
    mutate: [...resilience("Throttle"), ...internal("throttle")],
    tests: tests("resilience/Throttle*"),
    without: /about twice that/
  },
  retryBudget: {
    mutate: [...resilience("RetryBudget"), ...internal("retryBudget")],
    tests: tests("resilience/RetryBudget*"),
    without: /makes 3 times the load|makes at most 1 \+ ratio/
  },
  chaos: {
    mutate: [...resilience("Chaos"), ...internal("chaos")],
    tests: tests("resilience/Chaos*")
  },
  fallback: {
    mutate: [...resilience("Fallback"), ...internal("fallbackReason", "staleValues")],
    tests: tests("resilience/Fallback*")
  },
  retry: {
    mutate: [
      ...resilience("ErrorClass", "RetryPolicy", "Timeout", "Deadline"),
      ...internal("retryAfter", "retryFrame", "marks")
    ],
    tests: tests(
      "resilience/{ErrorClass,RetryPolicy,Timeout,Deadline,SharedError,Policy}*",
      "external/{ExternalHttp,Policies}*"
    )
  },
  breaker: {
    mutate: [...resilience("CircuitBreaker"), ...internal("breaker", "breakerWindow", "currentRandom")],
    tests: tests("resilience/Circuit*"),
    without: /500 (waiting|interrupted)|again and again|slow reader|100,000 keys/
  },
  breakers: {
    mutate: resilience("CircuitBreakers", "CircuitControl"),
    tests: tests("resilience/{CircuitBreakers,CircuitControl}*"),
    without: /100,000 keys/
  },
  policy: {
    mutate: [
      ...resilience("Policy", "Hedge"),
      ...internal(
        "pipeline",
        "timed",
        "streaming",
        "hedging",
        "leaf",
        "stage",
        "policyMetrics",
        "policyProblems",
        "policyConfig"
      )
    ],
    tests: tests("resilience/{Policy,Pipeline,Hedging,TryPromise,Timeout,EveryStep}*", "conformance/Conformance"),
    without:
      /held up at every step|500 waiting|of promises|many-breakers|adaptive-limit|rate-limit-exact|budget-(storm|aws|by-default)|takes-from-the-budget/
  }
}
