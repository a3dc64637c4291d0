/**
 * The port `ObjectStore` in a folder: one file an object, replaced whole, with conditions that hold between processes.
 *
 * @since 0.1.0
 */
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import {
  type Connection,
  ConnectionError,
  type ConnectMode,
  configOfSchema,
  Fields,
  type Kind,
  kindOf,
  type Plane
} from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as ObjectStore from "@underlay/core/storage/ObjectStore"
import * as Config from "effect/Config"
import type * as ConfigError from "effect/ConfigError"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Store from "../internal/object/fileStore.ts"

/**
 * @since 0.1.0
 * @category models
 */
export interface FileSystemSettings {
  /** The folder of the store. It is the store's own: three folders are made in it. */
  readonly directory: string
  /** Makes the folder where there is none: yes. */
  readonly createDirectory?: boolean | undefined
  /** Writes are on the disk when they are told to be done, also if the machine fails then: yes. */
  readonly durable?: boolean | undefined
  /** Other processes write to it too, so each write takes a lock of the object's: yes. */
  readonly shared?: boolean | undefined
  /** `internal` (nothing is shown) or `external` (each operation is watched): internal. */
  readonly plane?: Plane | undefined
  /** `eager` proves that the folder can be written to before anything starts: eager. */
  readonly connect?: ConnectMode | undefined
  readonly connectTimeout?: Duration.DurationInput | undefined
  readonly drainTimeout?: Duration.DurationInput | undefined
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** On the external plane: from when an operation is logged as slow. */
  readonly slowAfter?: Duration.DurationInput | undefined
  /** On the external plane: the levels of the one log line of an operation. */
  readonly logLevels?: ExternalClient.LogLevels | undefined
}

type StoreOf = Context.Tag.Service<ObjectStore.ObjectStore>

/**
 * A connection with the store on it.
 *
 * @since 0.1.0
 * @category models
 */
export interface FileSystemConnection extends Connection<StoreOf> {
  readonly store: StoreOf
}

/**
 * A folder as a connection: health, statistics, and the store.
 *
 * @since 0.1.0
 * @category tags
 */
export class FileSystem extends Context.Tag("@underlay/connections/FileSystem")<FileSystem, FileSystemConnection>() {}

const kindName = "filesystem"

/**
 * Opens a folder as a store, and removes what processes that are gone left half written. It fails with `NotFound` where
 * there is none and it is not to be made, with `PermissionDenied` where it cannot be written to.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = Effect.fnUntraced(function* (
  settings: FileSystemSettings,
  name = kindName
): Effect.fn.Return<FileSystemConnection, ConnectionError, Scope.Scope> {
  const failed =
    (method: string) =>
    (cause: unknown): ConnectionError => {
      const code = cause instanceof Error && "code" in cause && typeof cause.code === "string" ? cause.code : undefined
      const absent = code === "ENOENT" || code === "ENOTDIR" || code === "EEXIST"
      const denied = code === "EACCES" || code === "EPERM" || code === "EROFS"
      return new ConnectionError({
        reason: absent ? "NotFound" : denied ? "PermissionDenied" : "Unavailable",
        kind: kindName,
        connection: name,
        method,
        description: absent
          ? "there is no such folder: make it, or set createDirectory"
          : denied
            ? "the folder does not permit it to this user"
            : "the file system failed: look up the code, `original` says more",
        ...(code === undefined ? {} : { code }),
        cause
      })
    }
  if (settings.directory === "" || settings.directory.includes("\u0000")) {
    return yield* new ConnectionError({
      reason: "InvalidSettings",
      kind: kindName,
      connection: name,
      method: "make",
      description: "directory is the path of a folder"
    })
  }
  const folders = Store.foldersOf(Path.resolve(settings.directory))
  const lifecycle = yield* ConnectionLifecycle.make<Store.Folders>({
    kind: kindName,
    name,
    plane: settings.plane ?? "internal",
    connect: settings.connect,
    connectTimeout: settings.connectTimeout,
    drainTimeout: settings.drainTimeout,
    healthTimeout: settings.healthTimeout,
    open: Effect.tryPromise({
      try: async () => {
        if (settings.createDirectory === false) await Fs.access(settings.directory)
        for (const folder of Object.values(folders)) await Fs.mkdir(folder, { recursive: true })
        await Store.sweep(folders)
        return folders
      },
      catch: failed("open")
    }),
    check: ({ objects, temporary }) =>
      Effect.tryPromise({
        try: async () => {
          for (const folder of [objects, temporary]) await Fs.access(folder, Fs.constants.R_OK | Fs.constants.W_OK)
        },
        catch: failed("health")
      }),
    watch: { slowAfter: settings.slowAfter, logLevels: settings.logLevels },
    watchUse: false
  })
  const store = Store.make({
    lifecycle,
    durable: settings.durable ?? true,
    shared: settings.shared ?? true
  })
  return { ...lifecycle.connection, use: (f) => lifecycle.connection.use(() => f(store)), store }
})

const contextOf = (connection: FileSystemConnection): Context.Context<ObjectStore.ObjectStore | FileSystem> =>
  Context.add(Context.make(ObjectStore.ObjectStore, connection.store), FileSystem, connection)

/**
 * The store and the connection, from settings.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (
  settings: FileSystemSettings
): Layer.Layer<ObjectStore.ObjectStore | FileSystem, ConnectionError> =>
  Layer.scopedContext(Effect.map(make(settings), contextOf))

/**
 * The settings as they are read from a configuration.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Settings = Schema.Struct({
  directory: Fields.Text,
  createDirectory: Schema.optional(Fields.Flag),
  durable: Schema.optional(Fields.Flag),
  shared: Schema.optional(Fields.Flag),
  plane: Schema.optional(Fields.Plane),
  connect: Schema.optional(Fields.ConnectMode),
  connectTimeout: Schema.optional(Fields.Duration),
  drainTimeout: Schema.optional(Fields.Duration),
  healthTimeout: Schema.optional(Fields.Duration),
  slowAfter: Schema.optional(Fields.Duration)
})

/**
 * The store and the connection, from the configuration below `path`: `filesystem`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  path = kindName
): Layer.Layer<ObjectStore.ObjectStore | FileSystem, ConnectionError | ConfigError.ConfigError> =>
  Layer.scopedContext(
    Effect.map(
      Effect.flatMap(Config.nested(configOfSchema(Settings), path), (settings) => make(settings)),
      contextOf
    )
  )

/**
 * A folder for the registry of connections: `Connections.layer([FileSystem.kind])`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind: Kind<StoreOf, typeof Settings.Type> = kindOf({
  kind: kindName,
  schema: Settings,
  make: (name, settings) => make(settings, name)
})
