/**
 * A cache in front of something slow: one load however many ask at once, a typed value, an age, and a count of what
 * happened.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Cache } from "@underlay/core"
import { Console, Effect, Layer, Schema } from "effect"

const User = Schema.Struct({ id: Schema.String, name: Schema.String })

class Users extends Cache.tag("examples/Users", { namespace: "users", ttl: "5 minutes", schema: User })<Users>() {}

const loadUser = (id: string) =>
  Console.log(`loading user ${id}`).pipe(Effect.zipRight(Effect.sleep("20 millis")), Effect.as({ id, name: "Ada" }))

const program = Effect.gen(function* () {
  const users = yield* Users
  // A hundred requests for one user: one load.
  const found = yield* Effect.all(
    Array.from({ length: 100 }, () => users.getOrElse("42", loadUser("42"))),
    { concurrency: "unbounded" }
  )
  yield* Console.log(`${found.length} answers, all ${found[0]?.name}`)
  yield* users.delete("42")
  yield* users.getOrElse("42", loadUser("42"))
  const { joined, loads } = yield* users.stats
  yield* Console.log(`loads: ${loads}, joined a load that ran: ${joined}`)
})

program.pipe(Effect.provide(Users.layer.pipe(Layer.provide(Cache.layerMemory()))), NodeRuntime.runMain)
