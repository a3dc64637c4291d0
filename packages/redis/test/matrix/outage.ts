/** What happens to the ports while a master dies: all of them are in use, each by one case after the other. */
import { assert } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import { Cause, Chunk, Effect, type Exit, Fiber } from "effect"
import { pause, timed } from "../support.ts"
import type { Case } from "./ports.ts"

/** What a port went through. */
export interface Report {
  readonly port: string
  /** Cases that were run, and those of them that failed by the outage. */
  readonly ran: number
  readonly failed: number
  readonly longest: { readonly name: string; readonly took: number }
}

/**
 * What a case came to that ran while its server died: it passed; or a call of it failed as the port says, and the case
 * failed with that or because it had expected something else. Anything more is a fault: a defect, or an error of a port
 * that does not speak of an outage.
 */
const outcome = (exit: Exit.Exit<void, unknown>): "passed" | "failed by the outage" | { readonly fault: string } => {
  if (exit._tag === "Success") return "passed"
  const failures = Chunk.toReadonlyArray(Cause.failures(exit.cause))
  return Chunk.isEmpty(Cause.defects(exit.cause)) && failures.length > 0 && !failures.some(isFault)
    ? "failed by the outage"
    : { fault: Cause.pretty(exit.cause) }
}

/**
 * A lock goes with the server that had it, or stays there when its release does not get through. Time that a case lets
 * pass does not pass for a server that is dead, nor for what a fallback keeps: what should be over is still there.
 */
const isFault = (failure: unknown): boolean =>
  typeof failure === "object" &&
  failure !== null &&
  "reason" in failure &&
  !/^(?:Unavailable|Timeout|NotReady|Overloaded|Lost|NotAcquired|SessionGone|SessionExists|LimitReached)$/.test(
    String(failure.reason)
  )

/** Fails, by the machine's own clock, what hangs. */
const within = <E, R>(run: Effect.Effect<void, E, R>): Effect.Effect<void, E, R> =>
  Effect.raceFirst(
    Effect.disconnect(run),
    Effect.zipRight(pause(limit), Effect.dieMessage(`it hangs: ${limit / 1_000} s`))
  )

const limit = 60_000

/** Runs the cases of all ports, those of one port one by one, until `failover` is over. Fails on the first fault. */
export const during = <E, R, R2>(
  failover: Effect.Effect<unknown, E, R>,
  ports: ReadonlyArray<{ readonly name: string; readonly cases: ReadonlyArray<Case<R2>> }>
): Effect.Effect<ReadonlyArray<Report>, E, R | R2> =>
  Effect.gen(function* () {
    const happening = yield* Effect.fork(Effect.zipRight(pause(50), failover))
    const over = Effect.map(Fiber.poll(happening), (exit) => exit._tag === "Some")
    const reports = yield* Effect.forEach(
      ports,
      ({ cases, name }) =>
        Effect.gen(function* () {
          const longest = { name: "", took: 0 }
          let ran = 0
          let failed = 0
          while (!(yield* over)) {
            const one = cases[ran++ % cases.length]
            if (one === undefined) break
            const [exit, took] = yield* timed(Effect.exit(within(one.run)))
            if (took > longest.took) Object.assign(longest, { name: one.name, took })
            const came = outcome(exit)
            if (typeof came === "object") assert.fail(`${name}, ${one.name}: ${came.fault}`)
            if (came === "failed by the outage") failed++
            // those that vote and promote need the machine too
            yield* pause(5)
          }
          return { port: name, ran, failed, longest }
        }),
      { concurrency: "unbounded" }
    )
    yield* Fiber.join(happening)
    return reports
  })

/** Waits until the client writes again, whichever node has the key. Gives the milliseconds that it took. */
export const served = Effect.flatMap(RedisClient.RedisClient, (client) =>
  Effect.map(
    timed(
      Effect.retry(
        Effect.forEach(
          Array.from({ length: 12 }, (_, index) => `served:${index}`),
          (key) => client.send("SET", key, "1", "PX", "1000"),
          { concurrency: "unbounded" }
        ),
        { times: 1_000, while: () => Effect.as(pause(10), true) }
      )
    ),
    ([, took]) => took
  )
)
