/**
 * The ports over TLS with certificates on both sides, as a user of the server who may do what the ports do and nothing
 * more: not see other keys or channels, not empty the server, not look into it.
 */
import { assert, describe, layer } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import { Effect, Layer } from "effect"
import { RedisServer, server } from "../support.ts"
import * as Matrix from "./matrix.ts"
import * as Ports from "./ports.ts"

/** What the keys and channels of the ports begin with; `suite-` and `test:` are of what suites make themselves. */
const prefixes = [
  ...[
    "session:",
    "session-owner:",
    "cache:",
    "conversation:",
    "counter:",
    "events:",
    "events-topic:",
    "lock:",
    "semaphore:"
  ],
  ...["ratelimit:", "circuit-control", "confirmation:", "signup:", "suite-", "test:"]
]

const rules = (name: string): string =>
  [
    `${name} on >secret +@all -@admin -@dangerous +ROLE`,
    ...prefixes.flatMap((prefix) => [`~${prefix}*`, `~{${prefix}*`, `&${prefix}*`, `&{${prefix}*`])
  ].join(" ")

const running = server({ tls: "mutual", users: [rules("app")] })

const store = Ports.store(Effect.flatMap(RedisServer, ({ connect }) => connect))

describe.skipIf(Need.missing("redis-server") || Need.missing("openssl"))(
  Need.title(Need.title("the ports over TLS, as a user with few rights", "redis-server"), "openssl"),
  () => {
    for (const cell of Matrix.cells("tls")) {
      const client = Layer.unwrapEffect(
        Effect.map(RedisServer, ({ certificates, host, port }) =>
          RedisClient.layer({
            host,
            port,
            tls: true,
            ca: certificates?.ca,
            cert: certificates?.cert,
            key: certificates?.key,
            username: "app",
            password: "secret",
            commandTimeout: "5 seconds",
            driver: Matrix.driverOf(cell)
          })
        )
      )
      const real = Ports.redis.pipe(Layer.provideMerge(client), Layer.provideMerge(store), Layer.provideMerge(running))
      layer(real, { excludeTestServices: true })(cell.driver, (it) => {
        for (const port of Matrix.portsOf(cell, Ports.ports)) {
          describe(port.name, () => {
            for (const one of port.redis) it.effect(one.name, () => one.run, Ports.patience)
          })
        }

        it.effect("nothing was refused to the user, who may not do more", () =>
          Effect.gen(function* () {
            const { call } = yield* RedisServer
            assert.deepStrictEqual(yield* call("ACL", "LOG"), [])
            const redis = yield* RedisClient.RedisClient
            const refused: ReadonlyArray<RedisClient.Command> = [
              ["FLUSHALL"],
              ["KEYS", "*"],
              ["GET", "another"],
              ["PUBLISH", "another", ""]
            ]
            for (const command of refused) {
              assert.include((yield* Effect.flip(redis.send(...command))).message, "NOPERM", command[0])
            }
          })
        )
      })
    }
  }
)
