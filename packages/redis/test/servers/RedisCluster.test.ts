/** The real Cluster: it comes up, slots move with their keys while it is used, masters fall and replicas take over. */
import { assert, describe, it, layer } from "@effect/vitest"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as RedisCluster from "@underlay/servers/RedisCluster"
import * as RedisServer from "@underlay/servers/RedisServer"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { isRunning, pause } from "./support.ts"

class Cluster extends Context.Tag("test/Cluster")<Cluster, RedisCluster.RedisCluster>() {}

const seconds = 120_000

/** Sends a command as a client of a cluster does: where MOVED and ASK say. */
const follow = (
  cluster: RedisCluster.RedisCluster,
  ...parts: ReadonlyArray<string>
): Effect.Effect<unknown, RedisServer.RedisServerError> => {
  const at = (node: number, left: number, asking: boolean): Effect.Effect<unknown, RedisServer.RedisServerError> =>
    Effect.scoped(
      Effect.gen(function* () {
        const place = cluster.nodes[node]
        assert.isDefined(place)
        if (place === undefined) return undefined
        const connection = yield* place.connect
        const answer = yield* Effect.either(
          asking ? Effect.map(connection.calls([["ASKING"], parts]), ([, reply]) => reply) : connection.call(...parts)
        )
        if (answer._tag === "Right") return answer.right
        const [code, , address = ""] = answer.left.split(" ")
        const next = cluster.nodes.findIndex((one) => address === `${one.host}:${one.announced}`)
        if (code === "TRYAGAIN" && left > 0) return yield* Effect.zipRight(pause(5), at(node, left - 1, false))
        if ((code !== "MOVED" && code !== "ASK") || left === 0) {
          return yield* new RedisServer.RedisServerError({ description: answer.left })
        }
        return yield* at(next, left - 1, code === "ASK")
      })
    )
  return at(0, 20, false)
}

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisCluster", "redis-server"), () => {
  const running = Layer.scoped(Cluster, RedisCluster.make({ password: "pass" }))

  layer(running, { timeout: seconds })("six nodes", (it) => {
    it.effect("all slots are served by three masters, each with a replica", () =>
      Effect.gen(function* () {
        const cluster = yield* Cluster
        assert.strictEqual(cluster.nodes.length, 6)
        const owners = yield* cluster.owners
        assert.strictEqual(owners.length, RedisCluster.slotCount)
        assert.deepStrictEqual([...new Set(owners)].sort(), [0, 1, 2])
        for (const node of [3, 4, 5]) {
          assert.include(String(yield* cluster.command(node, "INFO", "replication")), "master_link_status:up")
        }
        for (let index = 0; index < 50; index++) {
          assert.strictEqual(yield* follow(cluster, "SET", `k${index}`, `v${index}`), "OK")
        }
        for (let index = 0; index < 50; index++) {
          assert.strictEqual(yield* follow(cluster, "GET", `k${index}`), `v${index}`)
        }
      })
    )

    it.effect("move: the slot and its keys are at the other master, times to live too", () =>
      Effect.gen(function* () {
        const cluster = yield* Cluster
        for (let index = 0; index < 250; index++) yield* follow(cluster, "SET", `{tag}${index}`, "x", "EX", "1000")
        const slot = yield* cluster.slotOf("{tag}")
        const before = yield* cluster.ownerOf(slot)
        const to = (before.index + 1) % 3
        yield* cluster.move(slot, to)
        assert.strictEqual((yield* cluster.ownerOf(slot)).index, to)
        assert.strictEqual(yield* cluster.command(to, "CLUSTER", "COUNTKEYSINSLOT", String(slot)), 250)
        assert.strictEqual(yield* cluster.command(before.index, "CLUSTER", "COUNTKEYSINSLOT", String(slot)), 0)
        assert.isAbove(Number(yield* cluster.command(to, "TTL", "{tag}7")), 900)
        const error = yield* Effect.flip(cluster.command(before.index, "GET", "{tag}7"))
        assert.include(error.description, `MOVED ${slot} 127.0.0.1:${cluster.nodes[to]?.port}`)
        // there already: nothing happens
        yield* cluster.move(slot, to)
        yield* cluster.move(slot, before.index)
        assert.strictEqual((yield* cluster.ownerOf(slot)).index, before.index)
        assert.strictEqual(yield* follow(cluster, "GET", "{tag}7"), "x")
      })
    )

    it.effect(
      "two hundred moves of a slot, each right after the last: every node agrees on each, and no key is lost",
      () =>
        Effect.gen(function* () {
          const cluster = yield* Cluster
          for (let index = 0; index < 20; index++) yield* follow(cluster, "SET", `{again}${index}`, `${index}`)
          const slot = yield* cluster.slotOf("{again}")
          let at = (yield* cluster.ownerOf(slot)).index
          for (let moved = 0; moved < 200; moved++) {
            const to = (at + 1 + (moved % 2)) % 3
            yield* cluster.move(slot, to)
            // a node that does not know the new owner sends to the old one: so would a replica
            const answers = yield* Effect.forEach(
              cluster.nodes.filter((node) => node.index !== to),
              (node) => Effect.flip(node.call("GET", "{again}7")),
              { concurrency: "unbounded" }
            )
            for (const { description } of answers) {
              assert.strictEqual(description, `MOVED ${slot} 127.0.0.1:${cluster.nodes[to]?.port}`)
            }
            at = to
          }
          assert.strictEqual(yield* cluster.command(at, "CLUSTER", "COUNTKEYSINSLOT", String(slot)), 20)
          for (let index = 0; index < 20; index++) {
            assert.strictEqual(yield* cluster.command(at, "GET", `{again}${index}`), `${index}`)
          }
        }),
      seconds
    )

    it.effect("startMove: on its way, a slot's old master answers for what it still has and ASKs for the rest", () =>
      Effect.gen(function* () {
        const cluster = yield* Cluster
        for (const name of ["a", "b", "c"]) yield* follow(cluster, "SET", `{way}${name}`, name)
        const slot = yield* cluster.slotOf("{way}")
        const from = (yield* cluster.ownerOf(slot)).index
        const to = (from + 1) % 3
        const move = yield* cluster.startMove(slot, to)
        assert.strictEqual(yield* move.migrateKeys(2), 2)
        const answers = yield* Effect.forEach(["a", "b", "c", "new"], (name) =>
          Effect.either(cluster.command(from, "GET", `{way}${name}`))
        )
        const asked = answers.filter((one) => one._tag === "Left" && one.left.description.startsWith("ASK "))
        assert.strictEqual(asked.length, 3)
        assert.strictEqual(answers.filter((one) => one._tag === "Right").length, 1)
        for (const name of ["a", "b", "c"]) assert.strictEqual(yield* follow(cluster, "GET", `{way}${name}`), name)
        const several = yield* Effect.either(cluster.command(from, "MGET", "{way}a", "{way}b", "{way}c"))
        assert.isTrue(several._tag === "Left" && several.left.description.startsWith("TRYAGAIN"))
        yield* move.finish
        assert.strictEqual((yield* cluster.ownerOf(slot)).index, to)
        for (const name of ["a", "b", "c"]) assert.strictEqual(yield* follow(cluster, "GET", `{way}${name}`), name)
        const already = yield* Effect.flip(cluster.startMove(slot, to))
        assert.include(already.description, "already")
      })
    )

    it.effect(
      "migrate: counters lose nothing while a thousand slots move under them",
      () =>
        Effect.gen(function* () {
          const cluster = yield* Cluster
          const before = yield* cluster.owners
          const slots = Array.from({ length: 1_000 }, (_, slot) => slot)
          const names: Array<string> = []
          for (let index = 0; names.length < 5; index++) {
            if ((yield* cluster.slotOf(`count${index}`)) < 1_000) names.push(`count${index}`)
          }
          let done = 0
          const writer = yield* Effect.fork(
            Effect.forever(
              Effect.forEach(
                names,
                (name) => Effect.tap(follow(cluster, "INCR", name), () => Effect.sync(() => done++)),
                { concurrency: "unbounded" }
              )
            )
          )
          yield* cluster.migrate(slots, 2)
          const during = done
          yield* cluster.migrate(slots, 0)
          yield* Fiber.interrupt(writer)
          assert.isAbove(during, 0)
          const sums = yield* Effect.forEach(names, (name) => Effect.map(follow(cluster, "GET", name), Number))
          const sum = sums.reduce((all, one) => all + one, 0)
          // those that were on their way when the writer was stopped may have been applied
          assert.isAtLeast(sum, done)
          assert.isAtMost(sum, done + names.length)
          const after = yield* cluster.owners
          assert.deepStrictEqual(
            after.slice(0, 1_000),
            slots.map(() => 0)
          )
          assert.deepStrictEqual(after.slice(1_000), before.slice(1_000))
        }),
      seconds
    )

    it.effect(
      "handOver: a replica takes over with nothing lost",
      () =>
        Effect.gen(function* () {
          const cluster = yield* Cluster
          yield* follow(cluster, "SET", "kept", "1")
          const shard = (yield* cluster.ownerOf(yield* cluster.slotOf("kept"))).index
          const after = yield* cluster.handOver(shard)
          assert.strictEqual(after.index, shard + 3)
          assert.strictEqual(yield* cluster.command(after.index, "GET", "kept"), "1")
          assert.strictEqual((yield* cluster.handOver(shard)).index, shard)
          assert.strictEqual(yield* follow(cluster, "GET", "kept"), "1")
        }),
      seconds
    )

    it.effect(
      "killMaster: a replica is promoted and serves; heal makes the cluster whole",
      () =>
        Effect.gen(function* () {
          const cluster = yield* Cluster
          const key = "survivor"
          yield* follow(cluster, "SET", key, "1")
          const slot = yield* cluster.slotOf(key)
          const shard = (yield* cluster.ownerOf(slot)).index
          yield* cluster.command(shard, "WAIT", "1", "5000")
          const promoted = yield* cluster.killMaster(shard)
          assert.strictEqual(promoted.index, shard + 3)
          assert.isUndefined(yield* cluster.nodes[shard]?.pid ?? Effect.void)
          assert.strictEqual((yield* cluster.ownerOf(slot)).index, promoted.index)
          assert.strictEqual(yield* cluster.command(promoted.index, "GET", key), "1")
          assert.strictEqual(yield* cluster.command(promoted.index, "SET", key, "2"), "OK")
          yield* cluster.heal
          assert.include(String(yield* cluster.command(shard, "INFO", "replication")), "role:slave")
          // and back, by the death of the other
          const again = yield* cluster.killMaster(shard)
          assert.strictEqual(again.index, shard)
          yield* cluster.heal
        }),
      seconds
    )
  })

  it.live(
    "announce: clients are sent to the proxies; slots move past them",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const proxies: Array<FaultProxy.FaultProxy> = []
          const cluster = yield* RedisCluster.make({
            replicas: 0,
            announce: ({ host, index, port }) =>
              FaultProxy.make({ host, port, spareReplication: true }).pipe(
                Effect.mapError(({ description }) => new RedisServer.RedisServerError({ description })),
                Effect.map((proxy) => {
                  proxies[index] = proxy
                  return proxy.port
                })
              )
          })
          const slots = (yield* cluster.command(0, "CLUSTER", "SLOTS")) as ReadonlyArray<
            readonly [number, number, readonly [string, number, string]]
          >
          assert.deepStrictEqual(slots.map(([, , [, port]]) => port).sort(), proxies.map((proxy) => proxy.port).sort())
          // slots move past the proxies
          yield* cluster.migrate([0, 1, 2], 1)
          assert.strictEqual((yield* cluster.owners)[1], 1)
        })
      ),
    seconds
  )

  it.live(
    "nothing is left when the scope closes",
    () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const cluster = yield* Scope.extend(RedisCluster.make({ replicas: 0 }), scope)
        const pids = (yield* Effect.forEach(cluster.nodes, (node) => node.pid)).map((pid) => pid ?? 0)
        assert.isTrue(pids.every(isRunning))
        yield* Scope.close(scope, Exit.void)
        assert.isFalse(pids.some(isRunning))
      }),
    seconds
  )
})

describe.skipIf(Need.missing("redis-server") || Need.missing("openssl"))(
  Need.title(Need.title("RedisCluster with TLS", "redis-server"), "openssl"),
  () => {
    it.live(
      "comes up, moves slots with keys",
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const cluster = yield* RedisCluster.make({ tls: true, replicas: 0, password: "pass" })
            assert.strictEqual(yield* follow(cluster, "SET", "a", "1"), "OK")
            const slot = yield* cluster.slotOf("a")
            const from = (yield* cluster.ownerOf(slot)).index
            yield* cluster.move(slot, (from + 1) % 3)
            assert.strictEqual(yield* cluster.command((from + 1) % 3, "GET", "a"), "1")
          })
        ),
      seconds
    )
  }
)
