/**
 * Every kind of connection against servers that are there and do not answer: its check answers within its budget and
 * 50 ms, whatever the other side does, and twenty that hang answer in one budget.
 */
import { assert, describe, it } from "@effect/vitest"
import type { AnyKind } from "@underlay/core/connection/Connection"
import * as Connections from "@underlay/core/connection/Connections"
import * as FaultServers from "@underlay/servers/FaultServers"
import * as Timed from "@underlay/servers/Timed"
import { ConfigProvider, Effect, Exit, Scope } from "effect"
import { kindsOver } from "./kinds.ts"

const budget = 500
const over = 50

/** The check of one connection, and what it found. */
const checked = (kind: AnyKind, settings: unknown) =>
  Effect.gen(function* () {
    const read = yield* Effect.withConfigProvider(kind.settings, ConfigProvider.fromJson(settings))
    const scope = yield* Scope.make()
    const connection = yield* Scope.extend(kind.make(kind.kind, read as never), scope)
    // The first check loads the driver, the second one finds what the first left behind.
    const results = [yield* Timed.timed(connection.health), yield* Timed.timed(connection.health)] as const
    const [, released] = yield* Timed.timed(Scope.close(scope, Exit.void))
    return { results, released }
  })

describe("health", () => {
  for (const [fault, start] of Object.entries(FaultServers.all)) {
    describe(fault, () => {
      for (const secure of [false, true]) {
        for (const { kind, settings } of kindsOver({ connect: "lazy", healthTimeout: `${budget} millis`, secure })) {
          it.live(
            `${kind.kind}${secure ? " over TLS" : ""} answers within its budget`,
            () =>
              Effect.gen(function* () {
                const server = yield* start
                const { released, results } = yield* checked(kind, settings(server.port))
                for (const [health, took] of results) {
                  assert.strictEqual(health.status, "down", JSON.stringify(health))
                  assert.isTrue(took <= budget + over, `${took} ms`)
                }
                // Nothing is under way that its release would have to wait for: what the check left is cut.
                assert.isTrue(released <= 7_000, `${released} ms`)
              }).pipe(Effect.scoped),
            20_000
          )
        }
      }
    })
  }

  it.live(
    "twenty that hang answer in one budget",
    () =>
      Effect.gen(function* () {
        const server = yield* FaultServers.blackhole
        const kinds = kindsOver({ connect: "lazy", healthTimeout: "1 hour", secure: false })
        const all = Array.from({ length: 20 }, (_, index) => {
          const one = kinds[index % kinds.length]
          if (one === undefined) throw new Error("there is no kind")
          return { ...one, name: `n${index}` }
        })
        const provider = ConfigProvider.fromJson({
          connections: Object.fromEntries(
            all.map(({ kind, name, settings }) => [name, { kind: kind.kind, ...settings(server.port) }])
          )
        })
        const registry = yield* Effect.withConfigProvider(
          Connections.make(
            kinds.map(({ kind }) => kind),
            { healthTimeout: "1 second" }
          ),
          provider
        )
        for (const { kind, name } of all) {
          yield* registry.open(kind.kind, name)
        }
        const [found, took] = yield* Timed.timed(registry.health)
        assert.strictEqual(found.length, 20)
        assert.isTrue(
          found.every(({ status }) => status === "down"),
          JSON.stringify(found)
        )
        assert.isTrue(took <= 1_000 + over, `${took} ms`)
      }).pipe(Effect.scoped),
    60_000
  )
})
