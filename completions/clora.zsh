#compdef clora

_clora_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _CLORA_COMPLETE=complete_zsh clora)
}

compdef _clora_completion clora
