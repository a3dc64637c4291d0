/**
 * A rate limit and a budget: five logins a minute for each address, and a monthly allowance of tokens for each customer.
 * With `REDIS_URL` set all processes share them, else they are this process's own.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Counters, RateLimiter } from "@underlay/core"
import { RedisClient, RedisCounters, RedisRateLimiter } from "@underlay/redis"
import { Config, Console, Duration, Effect, Layer, Option } from "effect"

/** Guards something: nothing passes while the store is away. */
class Logins extends RateLimiter.tag("examples/Logins", {
  name: "logins",
  limit: 5,
  interval: "1 minute",
  onUnavailable: "deny"
})<Logins>() {}

const program = Effect.gen(function* () {
  const logins = yield* Logins
  const decisions = yield* Effect.all(Array.from({ length: 7 }, () => logins.consume("203.0.113.7")))
  yield* Console.log(`of 7 logins ${decisions.filter(({ allowed }) => allowed).length} were allowed`)
  const last = decisions[6]
  if (last !== undefined) {
    const wait = Duration.toSeconds(last.retryAfter)
    yield* Console.log(`the next one may come in ${wait > 50 && wait <= 60 ? "about a minute" : `${wait} s`}`)
    yield* Console.log(`headers: ${Object.keys(RateLimiter.headers(last)).join(", ")}`)
  }
  yield* Console.log(`another address: ${(yield* logins.consume("203.0.113.8")).allowed ? "allowed" : "refused"}`)

  // A budget is never above its limit, however many add to it at once.
  const counters = yield* Counters.Counters
  const spend = counters.add("tokens:ada", 400, { window: "month", limit: 1_000 })
  const spent = yield* Effect.all([spend, spend, spend, spend], { concurrency: 4 })
  yield* Console.log(`${spent.filter(({ allowed }) => allowed).length} calls were within the month's 1000 tokens`)
  yield* counters.reset("tokens:ada")
  yield* logins.reset("203.0.113.7")
  yield* logins.reset("203.0.113.8")
})

const StoresFromEnvironment = Layer.unwrapEffect(
  Effect.map(Config.option(Config.string("REDIS_URL")), (url) =>
    Option.isSome(url)
      ? Layer.merge(RedisRateLimiter.layer, RedisCounters.layer).pipe(Layer.provide(RedisClient.layerConfig()))
      : Layer.merge(RateLimiter.layerMemory(), Counters.layerMemory())
  )
)

program.pipe(Effect.provide(Logins.layer.pipe(Layer.provideMerge(StoresFromEnvironment))), NodeRuntime.runMain)
