import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import type { RedisClient } from "@underlay/redis"
import * as Proxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Cluster from "@underlay/servers/RedisCluster"
import * as Sentinel from "@underlay/servers/RedisSentinel"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, type Scope } from "effect"
import { pause, until } from "./RedisClientSupport.ts"

const at = ({ host, port }: { readonly host: string; readonly port: number }) => ({ host, port })

/** A process that uses a client, and what it wrote. */
const worker = (version: string, options: RedisClient.Options) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const file = Path.join(import.meta.dirname, "clientWorker.ts")
        const child = ChildProcess.spawn(
          process.execPath,
          ["--import", "tsx", "--trace-warnings", file, version, JSON.stringify(options)],
          { stdio: ["pipe", "pipe", "pipe"] }
        )
        const seen = { output: "", problem: "", code: undefined as number | null | undefined }
        child.stdout.on("data", (chunk) => {
          seen.output += String(chunk)
        })
        child.stderr.on("data", (chunk) => {
          seen.problem += String(chunk)
        })
        child.once("close", (code) => {
          seen.code = code
        })
        child.stdin.on("error", () => {})
        return { child, seen }
      }),
      ({ child }) => Effect.sync(() => void child.kill("SIGKILL"))
    ),
    ({ child, seen }) => ({
      ready: until(
        Effect.sync(() => seen.output.includes("ready\n") || seen.code !== undefined),
        30_000
      ),
      /** Tells it to stop and waits for its end, which it comes to by itself; gives what it had counted. */
      stop: Effect.gen(function* () {
        child.stdin.write("stop\n")
        yield* until(
          Effect.sync(() => seen.code !== undefined),
          20_000
        )
        assert.strictEqual(seen.problem, "", "nothing is written to stderr")
        assert.strictEqual(seen.code, 0)
        assert.include(seen.output, "released\n")
        // nothing kept it alive: a timer of a command or of an attempt to connect would be seen here
        const kept: unknown = JSON.parse(/^kept (.*)$/m.exec(seen.output)?.[1] ?? "null")
        assert.deepStrictEqual(kept, [])
        const line = seen.output.split("\n").find((one) => one.startsWith("{")) ?? "{}"
        const counted: { readonly done?: number; readonly failed?: number } = JSON.parse(line)
        return { done: counted.done ?? 0, failed: counted.failed ?? 0, output: seen.output }
      })
    })
  )

for (const version of ["5", "6"]) {
  describe.skipIf(Need.missing("redis-server"))(
    Need.title(
      `A process with a client on ioredis ${version}: stderr stays empty, and it ends when the client is released`,
      "redis-server"
    ),
    () => {
      const live = (name: string, run: Effect.Effect<void, unknown, Scope.Scope>) =>
        it.scopedLive(name, () => run, 60_000)

      live(
        "a server that is killed (kill -9) again and again, and away at the end",
        Effect.gen(function* () {
          const server = yield* Server.make()
          const one = yield* worker(version, at(server))
          yield* one.ready
          for (let round = 0; round < 3; round++) {
            yield* pause(100)
            yield* server.kill
            yield* pause(100)
            if (round < 2) yield* server.start
          }
          const { done, failed } = yield* one.stop
          assert.isAbove(done, 0)
          assert.isAbove(failed, 0)
        })
      )

      live(
        "connections that are reset",
        Effect.gen(function* () {
          const server = yield* Server.make()
          const proxy = yield* Proxy.make({ port: server.port })
          const one = yield* worker(version, at(proxy))
          yield* one.ready
          for (let round = 0; round < 30; round++) {
            yield* round % 2 === 0 ? proxy.resetAll : proxy.resetAfter(20)
            yield* pause(20)
          }
          yield* proxy.resetNew(true)
          yield* proxy.resetAll
          yield* pause(100)
          const { done, failed } = yield* one.stop
          assert.isAbove(done, 0)
          assert.isAbove(failed, 0)
        })
      )

      live(
        "a wrong password",
        Effect.gen(function* () {
          const server = yield* Server.make({ password: "hunter2" })
          const eager = yield* worker(version, { ...at(server), password: "wrong" })
          const { output } = yield* eager.stop
          assert.include(output, "failed Authentication")
          const lazy = yield* worker(version, { ...at(server), password: "wrong", connect: "lazy" })
          yield* lazy.ready
          yield* pause(200)
          assert.isAbove((yield* lazy.stop).failed, 0)
        })
      )

      live(
        "a blackhole, and a server that is frozen with commands under way",
        Effect.gen(function* () {
          const server = yield* Server.make()
          const proxy = yield* Proxy.make({ port: server.port })
          const [one, other] = [yield* worker(version, at(proxy)), yield* worker(version, at(server))]
          yield* one.ready
          yield* other.ready
          yield* proxy.blackhole(true)
          yield* server.freeze
          yield* pause(700)
          assert.isAbove((yield* one.stop).failed, 0)
          assert.isAbove((yield* other.stop).failed, 0)
          const lazy = yield* worker(version, { ...at(proxy), connect: "lazy" })
          yield* pause(1_000)
          yield* lazy.stop
        })
      )

      live(
        "Sentinels and a master that go away",
        Effect.gen(function* () {
          const watched = yield* Sentinel.make({ replicas: 1 })
          const one = yield* worker(version, { sentinels: watched.sentinels.map(at), master: watched.master })
          yield* one.ready
          yield* pause(100)
          const master = yield* watched.masterServer
          yield* master.freeze
          const [first, ...others] = watched.sentinels
          if (first !== undefined) yield* first.freeze
          for (const sentinel of others) yield* sentinel.kill
          yield* pause(700)
          assert.isAbove((yield* one.stop).failed, 0)
        })
      )

      live(
        "a Cluster that loses a master, and then all",
        Effect.gen(function* () {
          const cluster = yield* Cluster.make({ replicas: 0 })
          const one = yield* worker(version, { nodes: cluster.nodes.map(at) })
          yield* one.ready
          yield* pause(100)
          const [first, second, third] = cluster.nodes
          if (first !== undefined) yield* first.kill
          yield* pause(200)
          if (second !== undefined) yield* second.freeze
          if (third !== undefined) yield* third.kill
          yield* pause(700)
          assert.isAbove((yield* one.stop).failed, 0)
        })
      )
    }
  )
}
