/**
 * What is known of commands: which of them may not go over a shared connection, and where their keys stand.
 */
import type { Argument } from "./driver.ts"

/** They change what a connection is, or end it. */
const stateful = new Set([
  "SUBSCRIBE",
  "PSUBSCRIBE",
  "SSUBSCRIBE",
  "UNSUBSCRIBE",
  "PUNSUBSCRIBE",
  "SUNSUBSCRIBE",
  "MONITOR",
  "SELECT",
  "AUTH",
  "HELLO",
  "QUIT",
  "RESET",
  "SYNC",
  "PSYNC",
  "REPLCONF",
  "READONLY",
  "READWRITE",
  "ASKING"
])

/** They have a meaning for the commands that follow on the same connection. */
const transactional = new Set(["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"])

/** They hold up whatever comes behind them. */
const blocking = new Set([
  "BLPOP",
  "BRPOP",
  "BLMOVE",
  "BRPOPLPUSH",
  "BLMPOP",
  "BZPOPMIN",
  "BZPOPMAX",
  "BZMPOP",
  "WAIT",
  "WAITAOF"
])

const special = new Set([...stateful, ...transactional, ...blocking, "XREAD", "XREADGROUP", "CLIENT"])

const textAt = (args: ReadonlyArray<Argument>, index: number): string => {
  const value = args[index]
  return typeof value === "string" ? value.toUpperCase() : ""
}

const blocks = (name: string, args: ReadonlyArray<Argument>): boolean => {
  if (blocking.has(name)) return true
  if (name !== "XREAD" && name !== "XREADGROUP") return false
  for (let index = 0; index < args.length; index++) {
    const word = textAt(args, index)
    if (word === "BLOCK") return true
    if (word === "STREAMS") return false
    // the names of a group and its consumer can be any words
    if (word === "GROUP") index += 2
  }
  return false
}

/** Where a command is to go. */
export type Place = "shared" | "isolated" | "transaction"

/** Why a command may not go over a connection, if so. `name` is in upper case. */
export const refusal = (name: string, args: ReadonlyArray<Argument>, place: Place): string | undefined => {
  if (!special.has(name)) return undefined
  if (stateful.has(name) || (name === "CLIENT" && textAt(args, 0) === "REPLY")) {
    return "this command changes the connection itself: subscriptions are made with listen, the rest is in the settings"
  }
  if (place === "shared" && transactional.has(name)) {
    return "this connection is shared: use transaction, or isolated for WATCH"
  }
  if (place === "shared" && blocks(name, args)) {
    return "this command would hold up the shared connection: use isolated"
  }
  if (place === "transaction" && transactional.has(name)) return "transactions are not nested"
  return undefined
}

/** Whether an isolated connection is another after this command, and must not be given to anybody else. */
export const leavesTraces = (name: string): boolean => name === "CLIENT" || transactional.has(name)

const keyless = new Set([
  "PING",
  "ECHO",
  "INFO",
  "TIME",
  "DBSIZE",
  "KEYS",
  "SCAN",
  "RANDOMKEY",
  "FLUSHALL",
  "FLUSHDB",
  "CONFIG",
  "CLIENT",
  "CLUSTER",
  "COMMAND",
  "ACL",
  "SCRIPT",
  "FUNCTION",
  "PUBLISH",
  "PUBSUB",
  "SLOWLOG",
  "LATENCY",
  "LASTSAVE",
  "SAVE",
  "BGSAVE",
  "BGREWRITEAOF",
  "ROLE",
  "WAIT",
  "WAITAOF",
  "SHUTDOWN",
  "REPLICAOF",
  "SLAVEOF",
  "FAILOVER",
  "MODULE",
  "LOLWUT",
  "SWAPDB",
  "MULTI",
  "EXEC",
  "DISCARD",
  "UNWATCH"
])

/** Commands whose keys are counted: the place of the count, from 0. */
const counted: Readonly<Record<string, number>> = {
  EVAL: 1,
  EVALSHA: 1,
  EVAL_RO: 1,
  EVALSHA_RO: 1,
  FCALL: 1,
  FCALL_RO: 1,
  ZUNION: 0,
  ZINTER: 0,
  ZDIFF: 0,
  ZINTERCARD: 0,
  SINTERCARD: 0,
  LMPOP: 0,
  ZMPOP: 0,
  BLMPOP: 1,
  BZMPOP: 1
}

/** Commands with a counted list of keys after a first key. */
const countedAfterFirst = new Set(["ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE"])

/** Commands with a subcommand before the key. */
const second = new Set(["OBJECT", "XGROUP", "XINFO", "BITOP", "DEBUG"])

/** Commands that take any number of keys and nothing else. */
const all = new Set([
  "DEL",
  "UNLINK",
  "EXISTS",
  "TOUCH",
  "MGET",
  "WATCH",
  "SINTER",
  "SUNION",
  "SDIFF",
  "SINTERSTORE",
  "SUNIONSTORE",
  "SDIFFSTORE",
  "PFCOUNT",
  "PFMERGE"
])

/** Commands of keys with a time-out at the end. */
const allButLast = new Set(["BLPOP", "BRPOP", "BZPOPMIN", "BZPOPMAX"])

/** Commands of key and value in turns. */
const everyOther = new Set(["MSET", "MSETNX"])

const pairs = new Set([
  "RENAME",
  "RENAMENX",
  "COPY",
  "LMOVE",
  "RPOPLPUSH",
  "BLMOVE",
  "BRPOPLPUSH",
  "SMOVE",
  "GEOSEARCHSTORE",
  "ZRANGESTORE",
  "LCS"
])

/**
 * The keys of a command, as far as the slot depends on them; none where any node can serve it. `name` is in upper case.
 * A command that is not known has its key first, as nearly all have.
 */
export const keysOf = (name: string, args: ReadonlyArray<Argument>): ReadonlyArray<Argument> => {
  if (all.has(name)) return args
  if (keyless.has(name)) return []
  const count = counted[name]
  if (count !== undefined) return args.slice(count + 1, count + 1 + Number(args[count]))
  if (countedAfterFirst.has(name)) return [...args.slice(0, 1), ...args.slice(2, 2 + Number(args[1]))]
  if (everyOther.has(name)) return args.filter((_, index) => index % 2 === 0)
  if (pairs.has(name)) return args.slice(0, 2)
  if (allButLast.has(name)) return args.slice(0, -1)
  if (second.has(name)) return name === "BITOP" ? args.slice(1) : args.slice(1, 2)
  switch (name) {
    case "MEMORY":
      return textAt(args, 0) === "USAGE" ? args.slice(1, 2) : []
    case "XREAD":
    case "XREADGROUP": {
      const at = args.findIndex((_, index) => textAt(args, index) === "STREAMS")
      return at < 0 ? [] : args.slice(at + 1, at + 1 + Math.floor((args.length - at - 1) / 2))
    }
    case "MIGRATE":
      return args[2] === ""
        ? args.slice(args.findIndex((_, index) => textAt(args, index) === "KEYS") + 1)
        : [args[2] ?? ""]
    default:
      return args.slice(0, 1)
  }
}
