/** The real Sentinels: they agree on the master, promote a replica when it dies, and bring the dead back as replicas. */
import { assert, describe, it, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as RedisSentinel from "@underlay/servers/RedisSentinel"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { isRunning } from "./support.ts"

class Sentinels extends Context.Tag("test/Sentinels")<Sentinels, RedisSentinel.RedisSentinel>() {}

const seconds = 120_000

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisSentinel", "redis-server"), () => {
  const running = Layer.scoped(
    Sentinels,
    RedisSentinel.make({ name: "prime", password: "data", sentinelPassword: "watch" })
  )

  layer(running, { timeout: seconds })("one master, two replicas, three Sentinels", (it) => {
    it.effect("each Sentinel names the master, and has a quorum", () =>
      Effect.gen(function* () {
        const system = yield* Sentinels
        const [first] = system.servers
        assert.strictEqual(system.servers.length, 3)
        assert.strictEqual(system.sentinels.length, 3)
        assert.strictEqual((yield* system.masterServer).port, first?.port)
        for (const sentinel of system.sentinels) {
          assert.deepStrictEqual(yield* sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", system.master), [
            "127.0.0.1",
            String(first?.port)
          ])
          assert.include(String(yield* sentinel.call("SENTINEL", "CKQUORUM", system.master)), "OK 3 usable Sentinels")
        }
      })
    )

    it.effect(
      "failover: the master is gone, a replica has its data and takes writes; restore brings it back",
      () =>
        Effect.gen(function* () {
          const system = yield* Sentinels
          const before = yield* system.masterServer
          yield* before.call("SET", "a", "1")
          yield* before.call("WAIT", "2", "5000")
          const after = yield* system.failover
          assert.notStrictEqual(after.port, before.port)
          assert.isUndefined(yield* before.pid)
          assert.strictEqual(yield* after.call("GET", "a"), "1")
          assert.strictEqual(yield* after.call("SET", "a", "2"), "OK")
          assert.strictEqual((yield* system.masterServer).port, after.port)
          yield* system.restore
          assert.strictEqual((yield* system.masterServer).port, after.port)
          const error = yield* Effect.flip(before.call("SET", "a", "3"))
          assert.include(error.description, "READONLY")
          assert.strictEqual(yield* before.call("GET", "a"), "2")
        }),
      seconds
    )

    it.effect(
      "switchOver: another master while the old one lives, as its replica; a failover right after it works",
      () =>
        Effect.gen(function* () {
          const system = yield* Sentinels
          const before = yield* system.masterServer
          const after = yield* system.switchOver
          assert.notStrictEqual(after.port, before.port)
          assert.include(String(yield* before.call("INFO", "replication")), `master_port:${after.port}`)
          const third = yield* system.failover
          assert.notStrictEqual(third.port, after.port)
          yield* system.restore
        }),
      seconds
    )

    it.effect(
      "a Sentinel that is killed is missed by nobody, and comes back with what it knew",
      () =>
        Effect.gen(function* () {
          const system = yield* Sentinels
          const [sentinel] = system.sentinels
          assert.isDefined(sentinel)
          if (sentinel === undefined) return
          yield* sentinel.kill
          const master = yield* system.failover
          yield* system.restore
          assert.deepStrictEqual(yield* sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", system.master), [
            "127.0.0.1",
            String(master.port)
          ])
        }),
      seconds
    )
  })

  it.live(
    "nothing is left when the scope closes",
    () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const system = yield* Scope.extend(RedisSentinel.make({ replicas: 1, sentinels: 2 }), scope)
        const all = [...system.servers, ...system.sentinels]
        const pids = (yield* Effect.forEach(all, (server) => server.pid)).map((pid) => pid ?? 0)
        assert.strictEqual(pids.length, 4)
        assert.isTrue(pids.every(isRunning))
        yield* Scope.close(scope, Exit.void)
        assert.isFalse(pids.some(isRunning))
      }),
    seconds
  )
})

describe.skipIf(Need.missing("redis-server") || Need.missing("openssl"))(
  Need.title(Need.title("RedisSentinel with TLS", "redis-server"), "openssl"),
  () => {
    it.live(
      "comes up and fails over",
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const system = yield* RedisSentinel.make({ tls: true, password: "data" })
            const before = yield* system.masterServer
            const after = yield* system.failover
            assert.notStrictEqual(after.port, before.port)
          })
        ),
      seconds
    )
  }
)
