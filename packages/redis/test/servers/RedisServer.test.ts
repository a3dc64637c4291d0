/** The real server with TLS, users, a master, persistence; and that none is left running. */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import { createRequire } from "node:module"
import * as Path from "node:path"
import * as Tls from "node:tls"
import { fileURLToPath, pathToFileURL } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import * as Machine from "@underlay/servers/internal/machine"
import * as Need from "@underlay/servers/Need"
import * as RedisServer from "@underlay/servers/RedisServer"
import { Effect, Exit, Scope } from "effect"
import { eventually, isRunning } from "./support.ts"

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisServer", "redis-server"), () => {
  it.scoped("is killed, stopped, started again on its port; without persistence it comes back empty", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make({ password: "se cret" })
      assert.strictEqual(yield* server.command("SET", "a", "1"), "+OK\r\n")
      assert.strictEqual(yield* server.call("GET", "a"), "1")
      const pid = yield* server.pid
      yield* server.kill
      assert.isFalse(isRunning(pid ?? 0))
      assert.isUndefined(yield* server.pid)
      const away = yield* Effect.flip(server.call("PING"))
      assert.strictEqual(away._tag, "RedisServerError")
      assert.include(away.description, "ECONNREFUSED")
      yield* server.start
      assert.notStrictEqual(yield* server.pid, pid)
      assert.isNull(yield* server.call("GET", "a"))
      yield* server.stop
      yield* server.start
      // one that runs is not started again
      const again = yield* server.pid
      yield* server.start
      assert.strictEqual(yield* server.pid, again)
    })
  )

  it.scoped("appendOnly: what was answered is there after a crash", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make({ appendOnly: true })
      yield* server.call("SET", "a", "1")
      yield* server.kill
      yield* server.start
      assert.strictEqual(yield* server.call("GET", "a"), "1")
    })
  )

  it.scoped("replicaOf: it has the master's data and is read-only", () =>
    Effect.gen(function* () {
      const master = yield* RedisServer.make({ password: "x" })
      yield* master.call("SET", "a", "1")
      const replica = yield* RedisServer.make({ password: "x", replicaOf: master })
      assert.strictEqual(yield* replica.call("GET", "a"), "1")
      const error = yield* Effect.flip(replica.call("SET", "a", "2"))
      assert.include(error.description, "READONLY")
    })
  )

  it.scoped("users: they may do what their rules say", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make({ users: ["app on >secret ~app:* +@all -@dangerous"] })
      const connection = yield* server.connect
      assert.strictEqual(yield* connection.call("AUTH", "app", "secret"), "OK")
      assert.strictEqual(yield* connection.call("SET", "app:1", "x"), "OK")
      assert.include(yield* Effect.flip(connection.call("SET", "other", "x")), "NOPERM")
      assert.include(yield* Effect.flip(connection.call("FLUSHALL")), "NOPERM")
      assert.include(yield* Effect.flip(connection.call("AUTH", "app", "wrong")), "WRONGPASS")
    })
  )

  it.scoped("a server that cannot start says why", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(RedisServer.make({ arguments: ["--maxmemory-policy", "nonsense"] }))
      assert.strictEqual(error._tag, "RedisServerError")
      assert.include(error.message, "maxmemory-policy")
      const first = yield* RedisServer.make()
      const taken = yield* Effect.flip(RedisServer.make({ port: first.port }))
      assert.include(taken.message, "Address already in use")
    })
  )

  it.effect("nothing is left when the scope closes: no process, frozen or not, and no folder", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const server = yield* Scope.extend(RedisServer.make(), scope)
      const frozen = yield* Scope.extend(RedisServer.make(), scope)
      const pids = [yield* server.pid, yield* frozen.pid].map((pid) => pid ?? 0)
      const folder = String(((yield* server.call("CONFIG", "GET", "dir")) as ReadonlyArray<string>)[1])
      assert.isTrue(Fs.existsSync(folder))
      yield* frozen.freeze
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(pids.map(isRunning), [false, false])
      assert.isFalse(Fs.existsSync(folder))
    })
  )

  /** A process of its own that has started a server, in a folder for temporary files. */
  const another = (folder: string) =>
    Effect.gen(function* () {
      const file = Path.join(folder, "start.ts")
      const module = fileURLToPath(new URL("../../../../servers/src/RedisServer.ts", import.meta.url))
      Fs.writeFileSync(
        file,
        `import { make } from ${JSON.stringify(module)}
import { Effect } from ${JSON.stringify(createRequire(import.meta.url).resolve("effect"))}
Effect.runFork(Effect.scoped(Effect.gen(function* () {
  const server = yield* make()
  process.stdout.write("pid " + (yield* server.pid) + "\\n")
  yield* Effect.never
})))`
      )
      const loader = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href
      const child = yield* Effect.acquireRelease(
        Effect.sync(() =>
          ChildProcess.spawn(process.execPath, ["--import", loader, file], {
            stdio: ["ignore", "pipe", "inherit", "ipc"],
            env: { ...process.env, TMPDIR: folder }
          })
        ),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      let output = ""
      child.stdout?.on("data", (chunk: Buffer) => {
        output += chunk.toString("utf8")
      })
      yield* eventually(() => /pid \d+\n/.test(output))
      const server = Number(/pid (\d+)\n/.exec(output)?.[1])
      assert.isTrue(isRunning(server))
      return { child, server }
    })
  const left = (folder: string) => Fs.readdirSync(folder).filter((name) => name.startsWith("underlay-redis-"))

  it.scoped(
    "a process that is asked to end leaves neither server nor folder behind, nor one whose parent died",
    () =>
      Effect.forEach(
        ["SIGINT", "SIGTERM", "disconnect"] as const,
        (how) =>
          Effect.gen(function* () {
            const folder = yield* Machine.folder("underlay-test-")
            const { child, server } = yield* another(folder)
            assert.strictEqual(left(folder).length, 1)
            if (how === "disconnect") child.disconnect()
            else child.kill(how)
            yield* eventually(() => !isRunning(server) && child.signalCode !== null)
            if (how !== "disconnect") assert.strictEqual(child.signalCode, how)
            assert.deepStrictEqual(left(folder), [], how)
          }),
        { concurrency: "unbounded", discard: true }
      ),
    60_000
  )

  const guarded = process.platform === "linux" && Need.program("setpriv") !== undefined
  it.scoped.skipIf(!guarded)(
    "a process that is killed leaves no server, and its folder goes with the next one",
    () =>
      Effect.gen(function* () {
        const folder = yield* Machine.folder("underlay-test-")
        const killed = yield* another(folder)
        const before = left(folder)
        killed.child.kill("SIGKILL")
        yield* eventually(() => !isRunning(killed.server) && killed.child.signalCode !== null)
        assert.deepStrictEqual(left(folder), before)
        yield* another(folder)
        assert.strictEqual(left(folder).length, 1)
        assert.notDeepEqual(left(folder), before)
      }),
    60_000
  )
})

const both = Need.missing("redis-server") || Need.missing("openssl")
describe.skipIf(both)(Need.title(Need.title("RedisServer with TLS", "redis-server"), "openssl"), () => {
  const trusted = (server: RedisServer.RedisServer, options: Tls.ConnectionOptions) =>
    Effect.async<string>((resume) => {
      const socket = Tls.connect({ host: server.host, port: server.port, ...options }, () => socket.write("PING\r\n"))
      socket.on("data", (chunk) => {
        resume(Effect.succeed(chunk.toString("utf8")))
        socket.destroy()
      })
      socket.on("error", (error: NodeJS.ErrnoException) => resume(Effect.succeed(error.code ?? error.message)))
      socket.on("close", () => resume(Effect.succeed("closed")))
    })

  it.scoped("its authority must be trusted; it is known as 127.0.0.1 and as localhost", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make({ tls: true })
      const ca = server.certificates?.ca
      assert.isTrue(server.url.startsWith("rediss://"))
      assert.strictEqual(yield* server.call("SET", "a", "1"), "OK")
      assert.strictEqual(yield* trusted(server, { ca }), "+PONG\r\n")
      assert.strictEqual(yield* trusted(server, { ca, servername: "localhost" }), "+PONG\r\n")
      assert.strictEqual(yield* trusted(server, {}), "SELF_SIGNED_CERT_IN_CHAIN")
      assert.strictEqual(
        yield* trusted(server, {
          ca,
          checkServerIdentity: (_, certificate) => Tls.checkServerIdentity("other", certificate)
        }),
        "ERR_TLS_CERT_ALTNAME_INVALID"
      )
    })
  )

  it.scoped("mutual: a client without a certificate is turned away", () =>
    Effect.gen(function* () {
      const server = yield* RedisServer.make({ tls: "mutual" })
      const { ca, cert, key } = server.certificates ?? {}
      assert.strictEqual(yield* trusted(server, { ca, cert, key }), "+PONG\r\n")
      assert.notStrictEqual(yield* trusted(server, { ca }), "+PONG\r\n")
    })
  )

  it.scoped("replicas follow over TLS", () =>
    Effect.gen(function* () {
      const master = yield* RedisServer.make({ tls: true })
      yield* master.call("SET", "a", "1")
      const replica = yield* RedisServer.make({ certificates: master.certificates, replicaOf: master })
      assert.strictEqual(yield* replica.call("GET", "a"), "1")
    })
  )
})
