/** The ports on one server. */
import { describe, layer } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer } from "effect"
import { RedisServer, server } from "../support.ts"
import * as Matrix from "./matrix.ts"
import * as Ports from "./ports.ts"

const store = Ports.store(Effect.flatMap(RedisServer, ({ connect }) => connect))

describe.skipIf(Need.missing("redis-server"))(Need.title("the ports on one server", "redis-server"), () => {
  for (const cell of Matrix.cells("single")) {
    const client = Layer.unwrapEffect(
      Effect.map(RedisServer, ({ host, port }) =>
        RedisClient.layer({ host, port, commandTimeout: "5 seconds", driver: Matrix.driverOf(cell) })
      )
    )
    const real = Ports.redis.pipe(Layer.provideMerge(client), Layer.provideMerge(store), Layer.provideMerge(server()))
    layer(real, { excludeTestServices: true })(cell.driver, (it) => {
      for (const port of Matrix.portsOf(cell, Ports.ports)) {
        describe(port.name, () => {
          for (const one of port.redis) it.effect(one.name, () => one.run, Ports.patience)
        })
      }
    })
  }
})
