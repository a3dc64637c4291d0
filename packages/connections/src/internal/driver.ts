/**
 * Drivers are loaded on first use; one that is not installed is a typed error that says what to install.
 */
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"

const isAbsent = (error: unknown, packageName: string): boolean =>
  error instanceof Error &&
  "code" in error &&
  (error.code === "ERR_MODULE_NOT_FOUND" || error.code === "MODULE_NOT_FOUND") &&
  error.message.includes(packageName)

/** Imports a driver. */
export const load = <A>(
  at: { readonly kind: string; readonly name: string },
  packageName: string,
  version: string,
  importIt: () => Promise<A>
): Effect.Effect<A, ConnectionError> =>
  Effect.tryPromise({
    try: importIt,
    catch: (cause) =>
      new ConnectionError({
        reason: "MissingDriver",
        kind: at.kind,
        connection: at.name,
        method: "load",
        description: isAbsent(cause, packageName)
          ? `the driver is not installed: npm install ${packageName}@${version}`
          : `the driver ${packageName} is installed but cannot be loaded: npm install ${packageName}@${version}; \`original\` says why`,
        cause
      })
  })
