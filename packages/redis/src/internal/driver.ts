/**
 * What the client needs of a Redis driver: a small structural port, so that the driver can be changed, and faults can
 * be made where a server cannot make them.
 */
import type { RedisSettings } from "../RedisSettings.ts"

/** An argument of a command. */
export type Argument = string | number

/** What the driver tells. `onAway` comes with what was known of the reason, and can come more than once. */
export interface Events {
  readonly onReady: () => void
  readonly onAway: (problem: unknown) => void
}

export interface Driver {
  /** Begins to connect, and connects again whenever the connection is lost, until `close`. */
  readonly connect: () => void
  /**
   * Sends a command. `done` is called once at most, with the driver's error or the reply; after a lost connection it
   * may never be called, so who sends settles what is under way when `onAway` comes.
   */
  readonly send: (name: string, args: ReadonlyArray<Argument>, done: (problem: unknown, reply: unknown) => void) => void
  /** Gives the connection up and connects anew. */
  readonly reset: () => void
  /** Lets go of everything at once. */
  readonly close: () => void
}

export interface DriverOptions {
  readonly settings: RedisSettings
  /** The longest pause between two attempts to connect, in milliseconds. */
  readonly reconnectDelay: number
  readonly name: string | undefined
}

export type MakeDriver = (options: DriverOptions, events: Events) => Driver
