/**
 * A sign-up that is confirmed by a code: who begins it gets a ticket, the address gets the code, and both together take it,
 * once. How long all of it is good, and what it is kept in, stands in `resources/sign-up/application-cache.yaml`;
 * `CACHE_KIND=redis` with `REDIS_URL` keeps it in Redis, which is not connected to otherwise.
 */
import * as Path from "node:path"
import { NodeFileSystem, NodeRuntime } from "@effect/platform-node"
import { Caches, Connections, Settings, SignupCache } from "@underlay/core"
import { RedisCaches, RedisConnection } from "@underlay/redis"
import { Console, Effect, Layer, Redacted, Schema } from "effect"

const Signups = Caches.signup({ schema: Schema.Struct({ name: Schema.String, plan: Schema.Literal("free", "paid") }) })
const Codes = Caches.confirmation()

const program = Effect.gen(function* () {
  const signups = SignupCache.withConfirmation(yield* Caches.get(Signups), yield* Caches.get(Codes))
  const address = "ada@example.org"

  const begun = yield* signups.begin(address, { name: "Ada", plan: "free" })
  if (begun._tag !== "Begun") return yield* Console.log(`not now: ${begun._tag}`)
  yield* Console.log(`to ${address}: your code is on its way (${begun.code})`)
  yield* Console.log(
    `somebody else, the same address: ${(yield* signups.begin(address, { name: "Eve", plan: "paid" }))._tag}`
  )
  yield* Console.log(`another code at once: ${(yield* signups.resend(address, begun.ticket))._tag}`)

  const wrong = yield* signups.confirm(address, begun.ticket, "0")
  yield* Console.log(wrong._tag === "Wrong" ? `a wrong code: ${wrong.attemptsLeft} tries left` : wrong._tag)
  yield* Console.log(`the code without the ticket: ${(yield* signups.confirm(address, "stolen", begun.code))._tag}`)

  // as a person types it, twice at the same time
  const typed = Redacted.value(begun.code).replace(/^..../, "$& ")
  const both = yield* Effect.all(
    [signups.confirm(address, begun.ticket, typed), signups.confirm(address, begun.ticket, typed)],
    { concurrency: 2 }
  )
  const confirmed = both.flatMap((one) => (one._tag === "Confirmed" ? [one.signup.name] : []))
  yield* Console.log(`confirmed: ${confirmed.join(", ")}`)
})

const SettingsFromFiles = Settings.layer({ directory: Path.join(import.meta.dirname, "../resources/sign-up") }).pipe(
  Layer.provide(NodeFileSystem.layer)
)

const NamedCaches = Caches.layer([RedisCaches.kindOfConnections]).pipe(
  Layer.provide(Connections.layer([RedisConnection.kind])),
  Layer.provideMerge(SettingsFromFiles)
)

program.pipe(Effect.provide(NamedCaches), NodeRuntime.runMain)
