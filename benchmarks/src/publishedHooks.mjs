/** The module hooks of `published.mjs`. */
import { existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import typescript from "typescript"

const packages = new URL("../../packages/", import.meta.url)
const compilerOptions = {
  module: typescript.ModuleKind.ESNext,
  target: typescript.ScriptTarget.ES2022,
  verbatimModuleSyntax: true,
  inlineSourceMap: true
}

export const resolve = (specifier, context, next) => {
  const [, name, path] = /^@underlay\/(core|redis|llm|connections)(?:\/(.+))?$/.exec(specifier) ?? []
  if (name === undefined) return next(specifier, context)
  const folder = new URL(`${name}/dist/`, packages)
  const file = [`${path ?? "index"}.js`, `${path}/index.js`].map((one) => new URL(one, folder)).find(existsSync)
  if (file === undefined) throw new Error(`${specifier} is not built: npx tsc -b packages/${name}/tsconfig.src.json`)
  return { url: file.href, format: "module", shortCircuit: true }
}

export const load = async (url, context, next) => {
  if (!url.startsWith("file:") || !url.endsWith(".ts")) return next(url, context)
  const source = await readFile(new URL(url), "utf8")
  const { outputText } = typescript.transpileModule(source, { compilerOptions, fileName: fileURLToPath(url) })
  return { format: "module", source: outputText, shortCircuit: true }
}
