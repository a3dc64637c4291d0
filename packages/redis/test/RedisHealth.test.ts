import { assert, describe, it } from "@effect/vitest"
import { Health } from "@underlay/core"
import { RedisClient, RedisHealth } from "@underlay/redis"
import * as Fake from "@underlay/servers/FakeRedis"
import * as Need from "@underlay/servers/Need"
import * as Cluster from "@underlay/servers/RedisCluster"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Layer } from "effect"
import { open, pause, timed, until } from "./RedisClientSupport.ts"

const at = ({ host, port }: { readonly host: string; readonly port: number }) => ({ host, port })

const details = (result: Health.CheckResult): Readonly<Record<string, unknown>> => result.details ?? {}

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisHealth", "redis-server"), () => {
  it.scopedLive("says that the server answers, what it is and how full it is", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ arguments: ["--maxmemory", "100mb"] })
      const { redis } = yield* open(at(server))
      const result = yield* RedisHealth.check(redis)
      assert.strictEqual(result.status, "up")
      const { latencyMs, memory, ...rest } = details(result)
      assert.deepStrictEqual(rest, {
        id: `127.0.0.1:${server.port}`,
        role: "master",
        replicas: { count: 0, lagMs: 0, lagBytes: 0 },
        state: "ready",
        inFlight: 0
      })
      assert.isNumber(latencyMs)
      assert.isAbove((memory as { readonly used: number }).used, 0)
      assert.deepInclude(memory, { max: 100 * 1024 * 1024, policy: "noeviction" })
    })
  )

  it.scopedLive("a server that is nearly full and evicts nothing is degraded; one that evicts is not", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ arguments: ["--maxmemory", "1mb"] })
      const { redis } = yield* open(at(server))
      assert.strictEqual((yield* RedisHealth.check(redis)).status, "degraded")
      assert.strictEqual((yield* RedisHealth.check(redis, { memory: 5 })).status, "up")
      yield* redis.send("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
      assert.strictEqual((yield* RedisHealth.check(redis)).status, "up")
    })
  )

  it.scopedLive("a replica is degraded, and more so without its master; a master tells how far its replicas are", () =>
    Effect.gen(function* () {
      const master = yield* Server.make()
      const replica = yield* Server.make({ replicaOf: at(master) })
      const ofMaster = yield* open(at(master))
      const ofReplica = yield* open(at(replica))
      yield* ofMaster.redis.send("SET", "key", "x".repeat(1_000))
      yield* until(
        Effect.map(RedisHealth.check(ofMaster.redis), (result) => {
          const replicas = details(result)["replicas"] as { readonly count: number; readonly lagBytes: number }
          return result.status === "up" && replicas.count === 1 && replicas.lagBytes === 0
        })
      )
      const one = yield* RedisHealth.check(ofReplica.redis)
      assert.deepStrictEqual(
        [one.status, details(one)["role"], details(one)["masterLink"]],
        ["degraded", "replica", "up"]
      )
      yield* replica.freeze
      yield* ofMaster.redis.send("SET", "key", "x".repeat(1_000))
      yield* until(
        Effect.map(
          RedisHealth.check(ofMaster.redis, { replicationLag: "2 seconds" }),
          (result) =>
            result.status === "degraded" && (details(result)["replicas"] as { lagBytes: number }).lagBytes > 1_000
        )
      )
      yield* replica.thaw
      yield* master.kill
      yield* until(Effect.map(RedisHealth.check(ofReplica.redis), (result) => details(result)["masterLink"] === "down"))
    })
  )

  it.scopedLive("a frozen server is down in time, one that is away at once, and both say why", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const { redis } = yield* open(at(server))
      yield* server.freeze
      const [first, took] = yield* timed(RedisHealth.check(redis, { timeout: "100 millis" }))
      assert.deepStrictEqual([first.status, details(first)["reason"]], ["down", "Timeout"])
      assert.isBelow(took, 300)
      yield* until(Effect.map(redis.state, (state) => state === "away"))
      const [then, tookThen] = yield* timed(RedisHealth.check(redis))
      assert.deepStrictEqual([then.status, details(then)["state"]], ["down", "away"])
      assert.isBelow(tookThen, 50)
      yield* server.thaw
      yield* until(Effect.map(RedisHealth.check(redis), ({ status }) => status === "up"))
    })
  )

  it.scopedLive("a user that may not ask for more than its keys has a healthy server", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ users: ["app on >hunter2 ~* +get +ping"] })
      const { redis } = yield* open({ ...at(server), username: "app", password: "hunter2" })
      const result = yield* RedisHealth.check(redis)
      assert.strictEqual(result.status, "up")
      assert.notProperty(details(result), "memory")
    })
  )

  it.scopedLive("registers itself with the application's health", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const client = RedisClient.layer({ ...at(server), connect: "lazy" })
      const report = yield* Effect.scoped(
        Effect.gen(function* () {
          const health = yield* Health.Health
          return yield* health.report("ready")
        }).pipe(
          Effect.provide(
            Layer.mergeAll(RedisHealth.layer, RedisHealth.layerWith({ name: "sessions", memory: 0.5 })).pipe(
              Layer.provide(client),
              Layer.provideMerge(Health.layer)
            )
          )
        )
      )
      assert.strictEqual(report.status, "up")
      assert.sameMembers(Object.keys(report.checks), ["redis", "sessions"])
    })
  )

  it.scopedLive(
    "on a Cluster every master is asked: degraded while one does not answer",
    () =>
      Effect.gen(function* () {
        const cluster = yield* Cluster.make({ replicas: 0 })
        const { redis } = yield* open({ nodes: cluster.nodes.map(({ announced }) => `127.0.0.1:${announced}`) })
        const whole = yield* RedisHealth.check(redis)
        assert.strictEqual(whole.status, "up")
        assert.lengthOf(details(whole)["nodes"] as ReadonlyArray<unknown>, 3)
        const [first] = cluster.nodes
        if (first !== undefined) yield* first.kill
        yield* pause(50)
        const partly = yield* RedisHealth.check(redis)
        assert.strictEqual(partly.status, "degraded")
        const nodes = details(partly)["nodes"] as ReadonlyArray<RedisHealth.NodeReport>
        assert.deepStrictEqual(nodes.map(({ status }) => status).sort(), ["down", "up", "up"])
      }),
    60_000
  )
})

describe("RedisHealth", () => {
  it.scopedLive("holds no secret and survives what a server can say", () =>
    Effect.gen(function* () {
      const server = yield* Fake.make((request) =>
        request.name === "INFO" ? "$8\r\nnonsense\r\n" : request.name === "ROLE" ? "+x\r\n" : undefined
      )
      const { redis } = yield* open({ ...at(server), password: "hunter2" })
      const result = yield* RedisHealth.check(redis)
      assert.strictEqual(result.status, "up")
      assert.notInclude(JSON.stringify(result), "hunter2")
    })
  )
})
