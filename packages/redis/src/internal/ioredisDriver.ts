/**
 * The driver port on ioredis, with every default that can hang, replay or flood set explicitly.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { Redis } from "ioredis"
import { RedisError } from "../RedisError.ts"
import type { MakeDriver } from "./driver.ts"

export const make: MakeDriver = ({ name, reconnectDelay, settings }, events) => {
  const password = Option.getOrUndefined(settings.password)
  const redis = new Redis({
    host: settings.host,
    port: settings.port,
    db: settings.db,
    lazyConnect: true,
    ...(password === undefined ? {} : { password: Redacted.value(password) }),
    ...(Option.isNone(settings.username) ? {} : { username: settings.username.value }),
    ...(settings.tls ? { tls: {} } : {}),
    ...(name === undefined ? {} : { connectionName: name }),
    connectTimeout: Duration.toMillis(settings.connectTimeout),
    // the two belong together: without the timeout a lost command never settles, without the other it is replayed
    commandTimeout: Duration.toMillis(settings.commandTimeout),
    autoResendUnfulfilledCommands: false,
    // what is under way when the connection goes is failed at the first attempt to get it back
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    enableReadyCheck: true,
    enableAutoPipelining: false,
    disableClientInfo: true,
    // a frozen server does not say goodbye: do not wait for it
    disconnectTimeout: 100,
    keepAlive: 30_000,
    noDelay: true,
    maxLoadingRetryTime: reconnectDelay,
    retryStrategy: (times) => Math.min(25 * times, reconnectDelay),
    // a master that became a replica: the name may lead to the new master by now; nothing is sent again
    reconnectOnError: (error) => error.message.startsWith("READONLY")
  })
  let problem: unknown
  let closed = false
  /** The server does not let this connection have its user or its database. */
  let refused = false

  const drop = () => {
    // end() would wait for the other side, and the other side may be frozen; before the first connection there is none
    const stream: { readonly destroy: () => void } | undefined = redis.stream
    stream?.destroy()
  }

  const refuse = (error: Error) => {
    if (refused) return
    refused = true
    problem = error
    drop()
  }
  // without a listener ioredis writes to the console, and an EventEmitter would throw
  redis.on("error", (error: unknown) => {
    // ioredis goes on in database 0, where the data of others may be
    if (isRefusedSelect(error)) refuse(new Error(`${RedisError.databaseRefused}${error.message}`))
    else if (!refused) problem = error
  })
  authenticating(redis, refuse)
  redis.on("ready", () => {
    if (refused) return
    problem = undefined
    if (!closed) events.onReady()
  })
  redis.on("close", () => {
    refused = false
    if (!closed) events.onAway(problem)
  })

  return {
    connect: () => {
      redis.connect().catch((error: unknown) => {
        // what went wrong came by the events already, save where connecting never began
        if (!closed && redis.status === "end") events.onAway(problem ?? error)
      })
    },
    send: (command, args, done) => {
      redis.call(command, ...args).then(
        (reply) => done(undefined, reply),
        (error: unknown) => done(error, undefined)
      )
    },
    reset: drop,
    close: () => {
      closed = true
      redis.disconnect()
      drop()
    }
  }
}

/**
 * Sees the answer to the credentials before ioredis does. That a server wants none ioredis writes to the console; that
 * it refuses them can come after it has said that the connection is ready, as its default user.
 */
const authenticating = (redis: Redis, refuse: (error: Error) => void): void => {
  type Done = (error: unknown, reply: unknown) => void
  // how ioredis calls it: with a password, or with a pair of user and password
  const auth = redis.auth.bind(redis) as unknown as (credentials: unknown, done: Done) => unknown
  Object.assign(redis, {
    auth: (credentials: unknown, done: Done) =>
      auth(credentials, (error, reply) => {
        if (!(error instanceof Error) || needless.test(error.message)) done(null, reply)
        else {
          refuse(error)
          done(error, reply)
        }
      })
  })
}

const needless = /no password is set|without any password configured for the default user/

const isRefusedSelect = (error: unknown): error is Error =>
  error instanceof Error &&
  error.name === "ReplyError" &&
  "command" in error &&
  typeof error.command === "object" &&
  error.command !== null &&
  "name" in error.command &&
  error.command.name === "select"
