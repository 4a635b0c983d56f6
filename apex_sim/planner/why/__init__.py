"""Why does a plan do as it does, and what would mend it?"""
