/**
 * Runs a benchmark as a user would run the packages: `@underlay/*` is what is published (`dist`), and the benchmark itself
 * is only stripped of its types. Runners that transpile on the fly keep the names of functions, which costs a quarter of a
 * microsecond for each closure that is made: ours would be measured with it, and no peer.
 *
 *     node --import ./src/published.mjs src/redis/operations.ts
 */
import { register } from "node:module"

register("./publishedHooks.mjs", import.meta.url)
