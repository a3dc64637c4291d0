// The direction of dependencies, checked in CI: core imports no sibling; redis, llm and connections never import each
// other; only packages/redis (and the benchmarks) know ioredis; no cycles.
const siblings = (from, ...forbidden) => ({
  name: `${from}-stands-alone`,
  severity: "error",
  comment: `packages/${from} must not import ${forbidden.join(", ")}: what two packages share is a port in core`,
  from: { path: `^packages/${from}/` },
  to: { path: `^packages/(${forbidden.join("|")})/` }
})

module.exports = {
  forbidden: [
    siblings("core", "redis", "llm", "connections"),
    siblings("redis", "llm", "connections"),
    siblings("llm", "redis", "connections"),
    siblings("connections", "redis", "llm"),
    {
      name: "only-redis-knows-ioredis",
      severity: "error",
      comment: "the driver stays behind packages/redis; the benchmarks measure it",
      from: { pathNot: "^(packages/redis|benchmarks)/" },
      to: { path: "(^|/)node_modules/(\\.pnpm/)?ioredis" }
    },
    {
      name: "packages-know-no-program",
      severity: "error",
      comment: "a package must not import the examples, the benchmarks or, outside its tests, the test servers",
      from: { path: "^packages/[^/]+/src/" },
      to: { path: "^(examples|benchmarks|servers|scripts)/" }
    },
    {
      name: "tests-are-not-imported",
      severity: "error",
      from: { path: "^(packages/[^/]+|examples)/(src|assistant/src)/" },
      to: { path: "/test/" }
    },
    {
      name: "no-effect-internals",
      severity: "error",
      comment: "effect/internal is not public and changes without notice",
      from: {},
      to: { path: "node_modules/(effect|@effect)/.*/internal/" }
    },
    { name: "no-cycles", severity: "error", from: { path: "^(packages|examples|servers)/" }, to: { circular: true } },
    {
      name: "resolvable",
      severity: "error",
      from: { path: "^(packages|examples|servers|benchmarks)/" },
      to: { couldNotResolve: true }
    }
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "(^|/)(dist|build|results)/" },
    tsPreCompilationDeps: true,
    combinedDependencies: true,
    tsConfig: { fileName: "tsconfig.base.json" },
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "node", "default", "types"],
      extensions: [".ts", ".mjs", ".js", ".d.ts"]
    }
  }
}
