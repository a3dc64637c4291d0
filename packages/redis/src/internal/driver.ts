/**
 * What the client needs of a Redis driver: one connection that encodes commands and decodes replies, from its opening to
 * its end. Everything that lasts longer than one connection (reconnecting, timeouts, routing, subscriptions) is ours, so
 * that the driver can be changed, and faults can be made where a server cannot make them.
 */

/** An argument of a command. */
export type Argument = string | number | Uint8Array

/** The material of a TLS connection, as text. */
export interface Tls {
  readonly ca: string | undefined
  readonly cert: string | undefined
  readonly key: string | undefined
  readonly serverName: string | undefined
  readonly rejectUnauthorized: boolean
}

/** Where a connection goes. */
export interface Target {
  readonly host: string
  readonly port: number
  readonly tls: Tls | undefined
  /** How long the opening may take, in milliseconds. */
  readonly connectTimeout: number
}

/** What a connection tells. */
export interface LinkEvents {
  /** Commands can be sent. */
  readonly onOpen: () => void
  /** The connection has ended by itself; `problem` is what is known of the reason. Once at most, and not after `close`. */
  readonly onClosed: (problem: unknown) => void
  /** A message of a subscription. */
  readonly onMessage?: ((channel: string, payload: string, pattern: string | undefined) => void) | undefined
  /** What is said on the channel of invalidations: keys as bytes, or null for all. */
  readonly onInvalidated?: ((keys: ReadonlyArray<Uint8Array> | null) => void) | undefined
}

/** The channel on which a server tells of keys that are tracked. */
export const invalidations = "__redis__:invalidate"

/** One connection. It never comes back: who wants another opens another. */
export interface Link {
  /**
   * Sends a command. `done` is called once at most, with the driver's error or the reply; text in replies comes as
   * strings, or as bytes where `binary` is set. It may never be called where the connection ends first.
   */
  readonly send: (
    name: string,
    args: ReadonlyArray<Argument>,
    binary: boolean,
    done: (problem: unknown, reply: unknown) => void
  ) => void
  /** Holds what is sent back until `uncork`, so that it goes out in one piece. */
  readonly cork: () => void
  readonly uncork: () => void
  /** Grows with everything that arrives. */
  readonly received: () => number
  /** How many bytes wait in this process to go out. */
  readonly buffered: () => number
  /** Lets go of the connection at once; the other side need not be there. */
  readonly close: () => void
}

/** Opens a connection. */
export type Open = (target: Target, events: LinkEvents) => Link
