/**
 * The driver port on ioredis, 5.11 or 6: one ioredis client is one connection. Whatever of it can hang, replay, queue or
 * write to the console is switched off; only the protocol remains.
 */
import * as Buffers from "node:buffer"
import { type Argument, invalidations, type Link, type Open } from "./driver.ts"

/** The options that we set; all of them exist in 5.11 and 6, save `protocol`, which 5.11 passes over. */
export interface IoredisOptions {
  readonly host: string
  readonly port: number
  readonly lazyConnect: true
  readonly connectTimeout: number
  readonly disconnectTimeout: number
  readonly retryStrategy: () => null
  readonly maxRetriesPerRequest: null
  readonly autoResendUnfulfilledCommands: false
  readonly autoResubscribe: false
  readonly enableOfflineQueue: false
  readonly enableReadyCheck: false
  readonly enableAutoPipelining: false
  readonly disableClientInfo: true
  readonly keepAlive: number
  readonly noDelay: true
  readonly tls?: object
}

/** The part of an ioredis client that is used. */
export interface IoredisClient {
  connect(): Promise<unknown>
  disconnect(): void
  on(event: string, listener: (...args: Array<never>) => void): unknown
  sendCommand(command: never): unknown
}

/** The part of ioredis that is used: the class of its clients with the class of its commands. */
export interface IoredisModule {
  readonly Redis: {
    new (options: IoredisOptions): IoredisClient
    readonly Command: {
      new (
        name: string,
        args: Array<string | number | Buffer>,
        options: { readonly replyEncoding: "utf8" | null }
      ): { readonly promise: Promise<unknown> }
    }
  }
}

interface Socket {
  readonly writableLength: number
  cork(): void
  uncork(): void
  destroy(): void
  on(event: "data", listener: () => void): unknown
}

/** What ioredis has only while there is a connection. */
interface Connected {
  readonly stream?: Socket | undefined
  sendCommand(command: { readonly promise: Promise<unknown> }): unknown
}

export const fromIoredis =
  ({ Redis }: IoredisModule): Open =>
  (target, events) => {
    const options: IoredisOptions & { readonly protocol: 2 } = {
      host: target.host,
      port: target.port,
      lazyConnect: true,
      connectTimeout: target.connectTimeout,
      // a frozen server does not say goodbye: do not wait for it
      disconnectTimeout: 100,
      retryStrategy: () => null,
      maxRetriesPerRequest: null,
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      enableOfflineQueue: false,
      enableReadyCheck: false,
      enableAutoPipelining: false,
      disableClientInfo: true,
      keepAlive: 30_000,
      noDelay: true,
      protocol: 2,
      ...(target.tls === undefined ? {} : { tls: tlsOptions(target.tls, target.host) })
    }
    const client = new Redis(options)
    const redis = client as IoredisClient & Connected
    const Command = Redis.Command
    let open = false
    let closed = false
    let received = 0
    let problem: unknown

    // without a listener ioredis writes to the console, and an EventEmitter would throw
    client.on("error", (error: unknown) => {
      problem ??= error
      // an answer that nobody asked for: what comes after it would answer the wrong commands
      if (open && !closed) redis.stream?.destroy()
    })
    client.on("ready", () => {
      if (closed) return
      open = true
      redis.stream?.on("data", () => {
        received++
      })
      events.onOpen()
    })
    client.on("end", () => {
      if (closed) return
      closed = true
      events.onClosed(problem)
    })
    const onMessage = events.onMessage
    if (onMessage !== undefined) {
      client.on("message", (channel: string, payload: string) => onMessage(channel, payload, undefined))
      client.on("pmessage", (pattern: string, channel: string, payload: string) => onMessage(channel, payload, pattern))
    }
    const onInvalidated = events.onInvalidated
    if (onInvalidated !== undefined) {
      // as text the keys would be one, with commas between
      client.on("messageBuffer", (channel: Buffer, keys: unknown) => {
        if (channel.toString() === invalidations) {
          onInvalidated(Array.isArray(keys) ? keys.filter((key) => key instanceof Uint8Array) : null)
        }
      })
    }
    // what went wrong comes by the events
    client.connect().catch(() => {})

    const link: Link = {
      send: (name, args, binary, done) => {
        let promise: Promise<unknown>
        try {
          const command = new Command(
            name,
            args.some(isForeign) ? args.map(argument) : (args as Array<string | number | Buffer>),
            { replyEncoding: binary ? null : "utf8" }
          )
          promise = command.promise
          redis.sendCommand(command)
        } catch (error) {
          // a command that is longer than a string can be
          done(error, undefined)
          return
        }
        promise.then(
          (reply) => done(undefined, reply),
          (error: unknown) => done(error, undefined)
        )
      },
      cork: () => redis.stream?.cork(),
      uncork: () => redis.stream?.uncork(),
      received: () => received,
      buffered: () => redis.stream?.writableLength ?? 0,
      close: () => {
        closed = true
        client.disconnect()
        // disconnect() waits for the other side, and the other side may be frozen
        redis.stream?.destroy()
      }
    }
    return link
  }

/** Bytes that are not in a Buffer: ioredis would make a text of them. */
const isForeign = (value: Argument): value is Uint8Array => typeof value === "object" && !Buffers.Buffer.isBuffer(value)

const argument = (value: Argument): string | number | Buffer =>
  isForeign(value)
    ? Buffers.Buffer.from(value.buffer, value.byteOffset, value.byteLength)
    : (value as string | number | Buffer)

const tlsOptions = (tls: NonNullable<Parameters<Open>[0]["tls"]>, host: string): object => ({
  rejectUnauthorized: tls.rejectUnauthorized,
  ...(tls.ca === undefined ? {} : { ca: tls.ca }),
  ...(tls.cert === undefined ? {} : { cert: tls.cert }),
  ...(tls.key === undefined ? {} : { key: tls.key }),
  // an address is no name: it must not be sent as one
  ...(tls.serverName !== undefined ? { servername: tls.serverName } : isAddress(host) ? {} : { servername: host })
})

const isAddress = (host: string): boolean => /^\d+(\.\d+){3}$/.test(host) || host.includes(":")
