/**
 * Packages that not everybody needs are loaded on first use; one that is not installed is a typed error that says what to
 * install.
 */
import * as Effect from "effect/Effect"

const isAbsent = (error: unknown, name: string): boolean =>
  error instanceof Error &&
  "code" in error &&
  (error.code === "ERR_MODULE_NOT_FOUND" || error.code === "MODULE_NOT_FOUND") &&
  error.message.includes(name)

/** Imports a package. */
export const load = <A, E>(
  name: string,
  version: string,
  importIt: () => Promise<A>,
  onError: (description: string, cause: unknown) => E
): Effect.Effect<A, E> =>
  Effect.tryPromise({
    try: importIt,
    catch: (cause) =>
      onError(
        isAbsent(cause, name)
          ? `${name} is not installed: npm install ${name}@${version}`
          : `${name} is installed but cannot be loaded: npm install ${name}@${version}`,
        cause
      )
  })
