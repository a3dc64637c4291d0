/**
 * Which driver speaks the protocol. The client brings ioredis 5.11; a program that has its own can give that one.
 *
 * @since 0.1.0
 */
import * as Own from "ioredis"
import type { Open } from "./internal/driver.ts"
import * as IoredisDriver from "./internal/ioredisDriver.ts"

/**
 * A driver. It opens single connections; reconnecting, timeouts, routing and subscriptions are the client's own,
 * whatever the driver.
 *
 * @since 0.1.0
 * @category models
 */
export interface RedisDriver {
  /** @internal */
  readonly open: Open
}

/**
 * The part of ioredis that is used: its class `Redis`, with the class of commands that hangs on it. `import * as
 * Ioredis from "ioredis"` fits, of 5.11 and of 6.
 *
 * @since 0.1.0
 * @category models
 */
export type Ioredis = IoredisDriver.IoredisModule

/**
 * The driver on an ioredis of the program's own, 5.11 or 6. The classes are used as they are given and never compared,
 * so copies and versions do not get into each other's way.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromIoredis = (ioredis: Ioredis): RedisDriver => ({ open: IoredisDriver.fromIoredis(ioredis) })

/**
 * The driver of the package: ioredis 5.11.
 *
 * @since 0.1.0
 * @category constructors
 */
export const ioredis: RedisDriver = fromIoredis(Own)
