/**
 * What a circuit breaker weighs: the heap that 100,000 of them take, the public wrapper included, divided by their number.
 * Run by itself, with the collector at hand:
 *
 *     node --expose-gc --import tsx benchmarks/src/breakerMemory.ts
 */
import { CircuitBreaker, CircuitBreakers } from "@underlay/core"
import { Effect } from "effect"

const number = 100_000
const limit = 512

const used = (): number => {
  const { gc } = globalThis
  if (gc === undefined) throw new Error("run it with --expose-gc")
  for (let round = 0; round < 4; round++) gc()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

/** Bytes for each of the things that are made, with what holds them taken off. */
const weigh = (make: (index: number) => unknown): number => {
  const kept: Array<unknown> = new Array(number).fill(undefined)
  const before = used()
  for (let index = 0; index < number; index++) kept[index] = make(index)
  const after = used()
  if (kept.at(-1) === undefined) throw new Error("nothing was made")
  return (after - before) / number
}

// The names are there already: they are the user's.
const names = Array.from({ length: number }, (_, index) => `service-${index}`)
const nameOf = (index: number): string => names[index] ?? ""
const failing = Effect.fail({ isRetryable: true })
const runSync = Effect.runSync

const everything = {
  slowCallDuration: "2 seconds",
  slowCallRate: 0.8,
  openFor: { initial: "5 seconds" },
  openJitter: 0.2,
  retryAfterCap: "1 minute",
  halfOpenPermits: 5,
  halfOpenSuccessRate: 0.6,
  rampUp: { over: "30 seconds", from: 0.1 }
} as const satisfies Omit<CircuitBreaker.Options, "name">

const made = (options: Omit<CircuitBreaker.Options, "name">) => (index: number) =>
  runSync(CircuitBreaker.make({ ...options, name: nameOf(index) }))

// The same settings are kept once, and so are their parts; here one is each breaker's own, and below all are.
const unlike = (index: number) =>
  runSync(
    CircuitBreaker.make({
      ...everything,
      window: { type: "count", size: 100, failureRate: 0.5 },
      probeLease: 60_000 + index,
      name: nameOf(index)
    })
  )

const wholly = (index: number) =>
  runSync(
    CircuitBreaker.make({
      ...everything,
      window: { type: "count", size: 100 + index, failureRate: 0.5 },
      openFor: { initial: 5_000 + index, max: 300_000 + index },
      rampUp: { over: 30_000 + index, from: 0.1 },
      probeLease: 60_000 + index,
      name: nameOf(index)
    })
  )

const figures: ReadonlyArray<readonly [what: string, bytes: number, limited: boolean]> = [
  ["defaults, unused", weigh(made({})), true],
  [
    "defaults, after a success and a failure",
    weigh((index) => {
      const breaker = made({})(index)
      runSync(Effect.exit(breaker.run(Effect.void)))
      runSync(Effect.exit(breaker.run(failing)))
      return breaker
    }),
    true
  ],
  [
    "every setting given, unused",
    weigh(made({ ...everything, window: { type: "count", size: 100, failureRate: 0.5 } })),
    true
  ],
  ["every setting given, one unlike any other's", weigh(unlike), true],
  ["every setting given, all unlike any other's", weigh(wholly), false],
  [
    "open",
    weigh((index) => {
      const breaker = made({ window: { type: "consecutive", failures: 1 } })(index)
      runSync(Effect.exit(breaker.run(failing)))
      return breaker
    }),
    true
  ],
  [
    "count window of 100 in use",
    weigh((index) => {
      const breaker = made({ ...everything, window: { type: "count", size: 100, failureRate: 0.5 } })(index)
      runSync(breaker.run(Effect.void))
      return breaker
    }),
    false
  ],
  [
    "time window of 10 buckets in use",
    weigh((index) => {
      const breaker = made({ ...everything, window: { type: "time", over: "10 seconds", failureRate: 0.5 } })(index)
      runSync(breaker.run(Effect.void))
      return breaker
    }),
    false
  ]
]

const keyed = (() => {
  const registry = runSync(CircuitBreakers.make({ name: "hosts", capacity: number }))
  return weigh((index) => {
    runSync(registry.run(nameOf(index), Effect.void))
    return registry
  })
})()

for (const [what, bytes, limited] of [...figures, ["in a registry, after a success", keyed, false] as const]) {
  const verdict = limited ? (bytes <= limit ? `  within ${limit}` : `  MORE THAN ${limit}`) : ""
  console.log(`${what.padEnd(44)}${bytes.toFixed(0).padStart(6)} bytes${verdict}`)
}
if (figures.some(([, bytes, limited]) => limited && bytes > limit)) process.exitCode = 1
