/** Nothing that prints an error of the client prints a key, a value, an argument or a password. */
import { assert, describe, it } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import { RedisError } from "@underlay/redis/RedisError"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import * as Shown from "@underlay/servers/Shown"
import { Context, Effect, Either, Layer, Redacted, Schema } from "effect"
import { failureOf } from "./RedisClientSupport.ts"

const secret = "hush"
const key = `it's ${secret}`

/** What the driver throws has the command with it. */
const reply = (message: string) =>
  Object.assign(new Error(message), { name: "ReplyError", command: { name: "set", args: [key, secret] } })

const silent = (error: RedisError): void => {
  for (const text of Shown.everyWay(error)) assert.notInclude(text, secret)
}

describe("RedisError", () => {
  const problems = {
    "arguments that the server quotes": reply(
      `ERR unknown command 'x', with args beginning with: '${key}' '${secret}'`
    ),
    "a key with a quotation mark": reply(`NOGROUP No such key '${key}' or consumer group '${secret}'`),
    "words of a script": reply(`MY ${secret} is taken`),
    "an error of a script": reply(`ERR ${secret} script: 0123, on @user_script:1.`),
    "a query that does not parse": reply(`Syntax error at offset 3 near ${secret}`),
    "an answer that does not parse": Object.assign(new Error(`Protocol error, got "${secret}" as reply type byte`), {
      name: "ParserError",
      buffer: secret
    }),
    "a socket that is lost with a command": Object.assign(new Error(`write EPIPE ${secret}`), {
      command: { args: [secret] }
    })
  }
  for (const [what, problem] of Object.entries(problems)) {
    it(`${what}: is not shown, and is there as original`, () => {
      const error = RedisError.fromUnknown("SET", problem, true)
      silent(error)
      assert.strictEqual(error.original, problem)
      assert.strictEqual(Reflect.get(Object(error.cause), "name"), problem.name)
      assert.instanceOf(structuredClone(error), Error)
      const received = Schema.decodeUnknownSync(RedisError)(Schema.encodeSync(RedisError)(error))
      assert.deepStrictEqual([received.reason, received.code], [error.reason, error.code])
      silent(received)
      // As it is told again to all who ask while the connection is down.
      const again = new RedisError({
        reason: "Unavailable",
        outcome: "not-sent",
        method: "GET",
        description: "away",
        cause: error.cause
      })
      silent(again)
      assert.strictEqual(again.original, problem)
    })
  }

  it("what the server said often is in the description", () => {
    const rows: ReadonlyArray<readonly [string, RegExp]> = [
      ["ERR This instance has cluster support disabled", /no Cluster/],
      [`ERR unknown command '${secret}', with args beginning with: `, /does not know/],
      ["ERR unknown subcommand 'x'. Try CLIENT HELP.", /does not know/],
      ["ERR wrong number of arguments for 'get' command", /number of arguments/],
      ["ERR syntax error", /arguments/],
      ["ERR value is not an integer or out of range", /number/],
      [`ERR Error running script: @user_script:1: ${secret}`, /script/],
      [`ERR ${secret} script: 01, on @user_script:1.`, /script/],
      [`ERR user_function:3: ${secret} script: g, on @user_function:3.`, /script/],
      [`MY own words`, /refused/]
    ]
    for (const [message, expected] of rows) {
      const error = RedisError.fromUnknown("X", reply(message), true)
      assert.deepStrictEqual([error.reason, /own words/.test(message) ? "ERR" : error.code], ["Rejected", "ERR"])
      assert.match(error.description, expected)
    }
  })

  it("a script or a function that failed half way may have done something", () => {
    const rows: ReadonlyArray<readonly [string, RedisError["outcome"]]> = [
      ["ERR value is not an integer or out of range script: 01, on @user_script:1.", "unknown"],
      ["ERR value is not an integer or out of range script: f, on @user_function:2.", "unknown"],
      ["OOM command not allowed script: f, on @user_function:2.", "rejected"],
      ["ERR Function not found", "rejected"]
    ]
    for (const [message, outcome] of rows) {
      assert.strictEqual(RedisError.fromUnknown("FCALL", reply(message), true).outcome, outcome, message)
    }
  })
})

describe.skipIf(Need.missing("redis-server"))(Need.title("what Redis refuses", "redis-server"), () => {
  const open = (options: RedisClient.Options) =>
    Effect.map(Layer.build(RedisClient.layer(options)), Context.get(RedisClient.RedisClient))

  it.scopedLive("is not shown with what it was asked", () =>
    Effect.gen(function* () {
      const server = yield* Server.make()
      const redis = yield* open({ host: server.host, port: server.port })
      yield* redis.send("SET", key, secret)
      const commands: ReadonlyArray<readonly [string, ...Array<string>]> = [
        ["NO-SUCH-COMMAND", key, secret],
        ["CLIENT", key, secret],
        ["CONFIG", "SET", key, secret],
        ["CONFIG", "SET", "maxmemory", key],
        ["XREADGROUP", "GROUP", key, secret, "STREAMS", key, ">"],
        ["XREADGROUP", "GROUP", key, secret, "STREAMS", `no ${key}`, ">"],
        ["INCR", key],
        ["LPUSH", key, secret],
        ["SET", key, secret, secret],
        ["AUTH", key, secret],
        ["ACL", "SETUSER", secret, `>${secret}`, key],
        ["EVAL", "return redis.error_reply('MY ' .. ARGV[1])", "1", key, secret],
        ["EVAL", "error(KEYS[1])", "1", key, secret],
        ["EVAL", "error({ err = ARGV[1] })", "1", key, secret],
        ["EVAL", `this is no script: ${secret}`, "0"],
        ["EVAL", "return redis.call('INCR', KEYS[1])", "1", key],
        ["EVALSHA", secret, "1", key],
        ["SELECT", secret],
        ["OBJECT", "ENCODING", key, secret],
        ["SUBSCRIBE", secret]
      ]
      for (const [name, ...args] of commands) {
        const answer = yield* Effect.either(redis.send(name, ...args))
        if (Either.isRight(answer)) assert.fail(`${name} ${args[0]} did not fail`)
        else silent(answer.left)
      }
      const both = [
        ["SET", key, secret],
        ["LPUSH", key, secret]
      ] as const
      for (const answers of [yield* redis.sendMany(both), yield* redis.transaction(both)]) {
        const refused = answers.filter(Either.isLeft)
        assert.strictEqual(refused.length, 1)
        for (const { left } of refused) silent(left)
      }
      const script = RedisClient.script("own", "return redis.error_reply(ARGV[1])")
      silent(yield* failureOf(redis.run(script, [key], [secret])))
    })
  )

  it.scopedLive("a password and a user that are refused are not shown", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ password: "another" })
      const error = yield* failureOf(
        open({ host: server.host, port: server.port, username: secret, password: Redacted.make(key) })
      )
      assert.instanceOf(error, RedisError)
      assert.strictEqual(error.reason, "Authentication")
      silent(error)
    })
  )

  it.scopedLive("a database that a user may not have: neither is shown, and what the server said is there", () =>
    Effect.gen(function* () {
      const server = yield* Server.make({ users: [`${secret} on >pass ~* &* +@all -select`] })
      const error = yield* failureOf(
        open({ host: server.host, port: server.port, username: secret, password: "pass", db: 1 })
      )
      assert.instanceOf(error, RedisError)
      assert.include(error.description, "database")
      assert.include(String(error.original), "select")
      silent(error)
    })
  )
})
