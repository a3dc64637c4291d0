/**
 * Both directions between the storage format and Markdown; loaded when one of them is first used.
 */
import * as Markdown from "./markdown.ts"
import * as StorageRead from "./storageRead.ts"
import * as StorageWrite from "./storageWrite.ts"
import * as Xml from "./xml.ts"

export { Refused } from "./xml.ts"

const limit = (text: string, most: number): void => {
  if (text.length > most) throw new Xml.Refused("TooLarge", `it has ${text.length} characters, and ${most} are taken`)
}

export const toMarkdown = (storage: string, unsupported: "keep" | "text", maxLength = 5_000_000): string => {
  limit(storage, maxLength)
  return Markdown.print({ type: "root", children: StorageRead.blocks(Xml.parse(storage), { unsupported }) })
}

// What a browser leaves out of an address before it looks at it.
// biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is left out
const ignored = /[\u0000-\u0020\u007f-\u00a0]/g

const isScript = (url: string): boolean => /^(?:javascript|vbscript|data):/i.test(url.replace(ignored, ""))

/** Without what runs in a browser: handlers of events, and links that are scripts, of which the text stays. */
const harmless = (nodes: ReadonlyArray<Xml.Node>): ReadonlyArray<Xml.Node> =>
  nodes.flatMap((node): ReadonlyArray<Xml.Node> => {
    if (typeof node === "string") return [node]
    const children = harmless(node.children)
    if (node.name === "a" && isScript(Xml.attribute(node, "href") ?? "")) return children
    return [
      Xml.element(
        node.name,
        children,
        node.attributes.filter(([name]) => !/^on/i.test(name))
      )
    ]
  })

export const fromMarkdown = (markdown: string, raw: boolean, maxLength = 500_000): string => {
  limit(markdown, maxLength)
  const source = markdown.replace(/\r\n?/g, "\n")
  const nodes = StorageWrite.write(Markdown.parse(source), { source, raw })
  return Xml.write(raw ? nodes : harmless(nodes))
}
